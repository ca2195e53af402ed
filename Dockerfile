# The command `ibot` with Mesa's Vulkan drivers; docs/install.md has the lines that give it a GPU. Linted by hadolint; it has
# not been built yet.
FROM rust:1.92-slim-trixie AS build
# the image's own toolchain, not the newest one, which rust-toolchain.toml asks rustup for
ENV RUSTUP_TOOLCHAIN=$RUST_VERSION
# no versions: those of the newest Debian point release
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo install --locked --profile dist --features hub,cloud --path apps/cli --root /ibot

FROM debian:trixie-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libvulkan1 mesa-vulkan-drivers \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 ibot
COPY --from=build /ibot/bin/ibot /usr/local/bin/ibot
# writable also where `--user` names somebody without a home
ENV XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface
USER 10001
WORKDIR /work
ENTRYPOINT ["ibot"]
CMD ["doctor"]
