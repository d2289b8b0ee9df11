#!/usr/bin/env bash
# Makes a crate of the kernels alone: tests/kernels_crate.sh FOLDER
#
# No more than the modules that kernels are made of, from the sources as they are, with the same versions of everything:
# it builds in a minute for another CPU or with a sanitizer. A module or crate that kernels come to use is named here.
set -euo pipefail
crate=$1
cd "$(dirname "$0")/.."

mkdir -p "$crate/src"
{
    printf '[workspace]\n[package]\nname = "kernels-alone"\n'
    grep -E '^(edition|rust-version) = ' Cargo.toml
    printf '[dependencies]\n'
    grep -E '^(proptest|rayon|regex|schemars|serde|serde_json|serde_path_to_error|serde_yaml|statrs|strsim|thiserror) = ' Cargo.toml
} >"$crate/Cargo.toml"
modules=(graph quant kernels)
for module in "${modules[@]}"; do
    ln -sfn "$PWD/src/$module" "$PWD/src/$module.rs" "$crate/src/"
done
printf 'pub mod %s;\n' "${modules[@]}" >"$crate/src/lib.rs"
cp Cargo.lock "$crate/Cargo.lock"
