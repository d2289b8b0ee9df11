#!/usr/bin/env bash
# Runs the tests of the kernels as an AArch64 CPU would, under qemu: tests/kernels_on_aarch64.sh
#
# For Debian 12 or later on x86-64. Cross compiling wants a standard library for AArch64 of the compiler's own version,
# and Debian has both. As root the script installs the packages that are missing; else it names them.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross libc6:arm64 qemu-user)
if ! dpkg-query --show "${packages[@]}" >/dev/null 2>&1; then
    install=(apt-get install --yes --no-install-recommends "${packages[@]}")
    if [ "$(id -u)" != 0 ]; then
        echo "missing packages: dpkg --add-architecture arm64; apt-get update; ${install[*]}" >&2
        exit 1
    fi
    dpkg --add-architecture arm64
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive "${install[@]}" --quiet=2 >/dev/null
fi

crate="$PWD/target/kernels-on-aarch64"
tests/kernels_crate.sh "$crate"

export RUSTC=/usr/bin/rustc CARGO_TARGET_DIR="$crate/target"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
unset RUSTC_WRAPPER RUSTFLAGS

# Programs run with the C library of libc6:arm64. That of libc6-arm64-cross is for linking alone: threads hang in it.
# kernels_on CPU EXPECTED TESTS...: runs the tests as that CPU, and insists on what they are to test.
kernels_on() {
    local cpu=$1 expected=$2 log="$crate/$1.log"
    shift 2
    printf '\n== qemu-aarch64 -cpu %s\n' "$cpu"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu" \
        cargo test --manifest-path "$crate/Cargo.toml" --release --target aarch64-unknown-linux-gnu --lib \
        -- --nocapture "$@" 2>&1 | tee "$log"
    grep -q "kernels tested: $expected;" "$log" || { echo "not all of $expected were tested" >&2; exit 1; }
}

kernels_on max 'neon-i8mm, neon, reference' kernels::
# CPUs with less are told apart.
kernels_on neoverse-n1 'neon, reference' the_fastest_instruction_set kernels_are_found_by_name
kernels_on cortex-a72 reference the_fastest_instruction_set kernels_are_found_by_name
