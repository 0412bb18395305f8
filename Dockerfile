# Trains, evaluates, predicts and exports: the console command deeplab-tf.
#     docker build -t deeplab-tf:cpu .
#     docker build -t deeplab-tf:gpu --build-arg DEVICE=gpu .
#     docker run --rm -v "$PWD:/work" deeplab-tf:cpu train --recipe=demo
#     docker run --rm --gpus all -v "$PWD:/work" deeplab-tf:gpu train --recipe=demo
# docs/install.md says more.
FROM python:3.12-slim

ARG DEVICE=cpu
WORKDIR /app
COPY requirements.txt requirements-gpu.txt ./
# CUDA's libraries are wheels: the image needs none of NVIDIA's.
RUN case "$DEVICE" in \
        cpu) file="requirements.txt" ;; \
        gpu) file="requirements-gpu.txt" ;; \
        *) echo "DEVICE must be cpu or gpu. Received: $DEVICE" >&2; exit 1 ;; \
    esac && \
    pip install --no-cache-dir -r "$file"

COPY README.md LICENSE MANIFEST.in CHANGELOG.md pyproject.toml setup.py ./
COPY deeplab_tf deeplab_tf
COPY datasets datasets
RUN pip install --no-cache-dir --no-deps . && rm -rf build ./*.egg-info

# What NVIDIA's container toolkit hands in, where the card is given by --gpus.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TF_CPP_MIN_LOG_LEVEL=2 \
    KERAS_HOME=/work/.keras \
    MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --create-home --uid 1000 deeplab && mkdir /work && chown 1000 /work
USER 1000
# Data and runs: relative paths of flags begin here.
WORKDIR /work
ENTRYPOINT ["deeplab-tf"]
CMD ["--help"]
