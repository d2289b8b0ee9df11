# qtuned in a container: one binary, a user without rights, nothing written but /work and /tmp.
#
#   docker build -t qtuned .
#   docker run --rm --read-only --tmpfs /tmp -v "$PWD:/work" -u "$(id -u):$(id -g)" qtuned run job.yaml
#
# As a daemon, with models and data in /srv/models, what it records in a volume, and a file of tokens (lines
# `read TOKEN`, `write TOKEN`), for outside of its container it is another machine:
#
#   docker run -d --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges -p 127.0.0.1:7878:7878 \
#       -v qtuned:/work -v /srv/models:/data:ro -v "$PWD/tokens:/run/tokens:ro" \
#       qtuned serve --listen 0.0.0.0:7878 --token-file /run/tokens --data-root /data
#
# BASE must have glibc; BUILDER must be of the same distribution release or an older one.
ARG BUILDER=rust:1-slim-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILDER} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ make pkg-config && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The queries were checked when .sqlx was written.
ENV SQLX_OFFLINE=true
# Tables of lines are most of the binary.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo
COPY . .
RUN cargo build --release --locked --bin qtuned

FROM ${BASE}
RUN groupadd --gid 10001 qtuned \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /work --shell /usr/sbin/nologin qtuned \
    && mkdir /work && chown qtuned:qtuned /work
COPY --from=build /build/target/release/qtuned /usr/local/bin/qtuned
# By number, so that a cluster can see that it is not root.
USER 10001:10001
WORKDIR /work
VOLUME /work
EXPOSE 7878
# It records where a search was and ends within ten seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["qtuned"]
CMD ["--help"]
