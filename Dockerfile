# qtuned in a container: one binary, a user without rights, a folder to work in.
#
#   docker build -t qtuned .
#   docker run --rm -v "$PWD:/work" -u "$(id -u):$(id -g)" qtuned run job.yaml
#
# BASE must have glibc; BUILDER must be of the same distribution release or an older one.
ARG BUILDER=rust:1-slim-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILDER} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ make pkg-config && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The queries were checked when .sqlx was written.
ENV SQLX_OFFLINE=true
COPY . .
RUN cargo build --release --locked --bin qtuned

FROM ${BASE}
RUN groupadd --system --gid 10001 qtuned && useradd --system --uid 10001 --gid 10001 --create-home qtuned \
    && mkdir /work && chown qtuned:qtuned /work
COPY --from=build /build/target/release/qtuned /usr/local/bin/qtuned
USER qtuned
WORKDIR /work
STOPSIGNAL SIGTERM
ENTRYPOINT ["qtuned"]
CMD ["--help"]
