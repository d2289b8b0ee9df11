#!/usr/bin/env bash
# Builds the container image without a Docker engine and runs it: tests/container.sh [FOLDER]
#
# For Debian, as root, with buildah and debootstrap, which are installed where they are missing. The base is a minimal
# Debian, the builder is that with this machine's Rust toolchain. `run` and `serve` then go as the image's user, without
# capabilities, on a root file system that is read-only: by chroot in namespaces of their own, for want of an engine.
# What was made stays in FOLDER, which is else a temporary one.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD
if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah debootstrap
fi
work=${1:-}
if [ -n "$work" ]; then
    mkdir -p "$work"
    work=$(realpath "$work")
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
buildah() { command buildah --root "$work/storage" --runroot "$work/runroot" --storage-driver vfs "$@"; }
export BUILDAH_ISOLATION=chroot
release=$(. /etc/os-release && echo "$VERSION_CODENAME")

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

if ! buildah inspect localhost/builder >/dev/null 2>&1; then
    step "a minimal Debian $release"
    [ -e "$work/debian/etc/debian_version" ] || debootstrap --variant=minbase "$release" "$work/debian" >"$work/debootstrap.log"
    base=$(buildah from scratch)
    buildah add --quiet "$base" "$work/debian" /
    buildah commit --quiet "$base" localhost/base

    step 'the same with Rust'
    builder=$(buildah from localhost/base)
    buildah add --quiet "$builder" "$(rustc --print sysroot)" /opt/rust
    # It trusts the registries that this machine trusts.
    buildah add --quiet "$builder" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
    buildah config --env PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin "$builder"
    buildah commit --quiet "$builder" localhost/builder
    buildah rm --all >/dev/null
fi

step 'the image'
began=$SECONDS
buildah build --quiet --build-arg BUILDER=localhost/builder --build-arg BASE=localhost/base --tag localhost/qtuned . >"$work/build.log"
echo "built in $((SECONDS - began)) s"
container=$(buildah from localhost/qtuned)
image=$(buildah mount "$container")
echo "its root file system has $(du -sh "$image" | cut -f1), of which qtuned $(du -sh "$image/usr/local/bin/qtuned" | cut -f1)"

# Runs a command of the image as its user, on its root file system, read-only; /work and /tmp can be written, and the
# sources are at /source. All that is mounted is gone with it.
contained() {
    unshare --mount --pid --fork --kill-child bash -euc '
        image=$1 source=$2 volume=$3
        shift 3
        mount --make-rprivate /
        mkdir -p "$image/source"
        mount --bind "$image" "$image"
        mount --bind -o ro "$source" "$image/source"
        mount -o remount,bind,ro "$image/source"
        mount --bind "$volume" "$image/work"
        mount -t tmpfs tmpfs "$image/tmp"
        mount -t proc proc "$image/proc"
        mount -o remount,bind,ro "$image"
        export HOME=/work PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin
        exec chroot "$image" env --chdir=/work setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all \
            --inh-caps=-all qtuned "$@"
    ' contained "$image" "$source" "$work/volume" "$@"
}
rm -rf "$work/volume"
install -d -o 10001 -g 10001 "$work/volume"

step 'qtuned run'
contained --version
contained run /source/configs/fashion-mnist.yaml
[ -s "$work/volume/qtuned-out/fashion-mnist/best.qconfig.yaml" ]
[ "$(stat -c %u "$work/volume/qtuned.db")" = 10001 ]

step 'qtuned serve'
port=17878
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
printf 'write %s\n' "$token" >"$work/volume/tokens"
contained serve --listen "0.0.0.0:$port" --token-file tokens --data-root /source --db served.db &
server=$!
address=http://127.0.0.1:$port
ask() { curl --silent --show-error --fail-with-body --header "Authorization: Bearer $token" "$@"; }
for _ in $(seq 100); do
    curl --silent --fail "$address/readyz" >/dev/null && break
    sleep 0.1
done
[ "$(curl --silent --output /dev/null --write-out '%{http_code}' "$address/v1/jobs")" = 401 ]
job=$(sed 's|\.\./|/source/|' configs/fashion-mnist.yaml |
    ask --header 'Content-Type: application/yaml' --data-binary @- "$address/v1/jobs" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
state=queued
while [ "$state" = queued ] || [ "$state" = running ]; do
    sleep 1
    state=$(ask "$address/v1/jobs/$job" | python3 -c 'import json, sys; print(json.load(sys.stdin)["state"])')
done
echo "job $job has $state"
[ "$state" = succeeded ]
# It is process 1 of its container, and must hear SIGTERM all the same.
kill -TERM "$(pgrep --full --newest 'qtuned serve --listen')"
began=$SECONDS
code=0
wait "$server" || code=$?
echo "ended in $((SECONDS - began)) s with exit code $code"
[ "$code" = 0 ] && [ $((SECONDS - began)) -le 10 ]

printf '\n== all good (%s s)\n' "$SECONDS"
