# afina on NVIDIA GPUs, with the versions of locks/cuda.txt. From the repository's root:
#
#     docker build -f container/cuda.Dockerfile -t afina .
#     docker run --rm --gpus all -v "$PWD:/work" -v afina-home:/home/afina afina run my-docs.yaml
#
# /work is where recipes, documents and runs are; /home/afina keeps bases and caches from one container to the next.
# Add `--user "$(id -u):$(id -g)"` and what is written there is yours.
FROM python:3.11-slim-bookworm

# CUDA's libraries come with torch, the driver from the machine, by NVIDIA's container toolkit.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Triton compiles a launcher for each kernel, the first time that it runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/afina/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/afina
COPY locks/cuda.txt /src/locks/cuda.txt
RUN pip install --no-deps -r /src/locks/cuda.txt

COPY pyproject.toml MANIFEST.in README.md CHANGELOG.md LICENSE /src/
COPY afina /src/afina
RUN pip install --no-deps --no-build-isolation /src && pip check && rm -rf /src

ENV HOME=/home/afina
RUN mkdir -m 1777 /home/afina /work
WORKDIR /work
ENTRYPOINT ["afina"]
CMD ["--help"]
