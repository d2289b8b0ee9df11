#!/usr/bin/env bash
# Runs the tests of the kernels under AddressSanitizer and under valgrind: tests/kernels_sanitized.sh
#
# For x86-64 Linux. AddressSanitizer comes with rustc, behind RUSTC_BOOTSTRAP; it runs all kernels of this CPU. valgrind
# knows no AVX-512 and hides it, so that it runs those of AVX2 and the plain ones, which takes some minutes; without
# it, that part is left out and said so.
set -euo pipefail
cd "$(dirname "$0")/.."

crate="$PWD/target/kernels-sanitized"
tests/kernels_crate.sh "$crate"
export CARGO_TARGET_DIR="$crate/target"

printf '\n== AddressSanitizer\n'
RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test --manifest-path "$crate/Cargo.toml" --release --lib \
    --target x86_64-unknown-linux-gnu -- --nocapture kernels::

if ! command -v valgrind >/dev/null; then
    echo 'valgrind is missing: NOT run'
    exit 0
fi
printf '\n== valgrind\n'
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='valgrind --quiet --error-exitcode=1' \
    cargo test --manifest-path "$crate/Cargo.toml" --release --lib --target x86_64-unknown-linux-gnu \
    -- --nocapture --test-threads 1 kernels::
