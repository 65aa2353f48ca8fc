# The faasnet binary on a small base, without a shell and not as root.
#
# Both base images are arguments, for sites that build from their own:
#   docker build --build-arg BUILD_IMAGE=... --build-arg BASE_IMAGE=... -t faasnet .
ARG BUILD_IMAGE=docker.io/library/rust:1-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p faasnet \
    && mkdir /out /out/data \
    && strip -o /out/faasnet target/release/faasnet

FROM ${BASE_IMAGE}
COPY --from=build /out/faasnet /usr/local/bin/faasnet
COPY --from=build --chown=65532:65532 /out/data /var/lib/faasnet
USER 65532:65532
ENV FAASNET_DATA=/var/lib/faasnet
VOLUME /var/lib/faasnet
EXPOSE 7400/udp 7401/tcp
ENTRYPOINT ["/usr/local/bin/faasnet"]
CMD ["node"]
