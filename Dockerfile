# The web demo of a checkpoint:
#
#   docker build -t bibier-demo .
#   docker run --rm -p 7860:7860 -v "$PWD/outputs/quickstart:/model:ro" bibier-demo

FROM python:3.11.14-slim-bookworm

# ffmpeg reads m4a, mp4, webm, aac, and wma; g++ builds the CPU kernels once, below.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg g++ \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home bibier
WORKDIR /app

# PyTorch's CPU build; the default one brings gigabytes of CUDA libraries.
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY recipes ./recipes
RUN pip install --no-cache-dir -c constraints.txt '.[demo]'

USER bibier
RUN bibier kernels

EXPOSE 7860
ENTRYPOINT ["bibier", "demo", "/model", "--host", "0.0.0.0", "--port", "7860"]
