# A server, or the web demo of a checkpoint (the last stage, so the default):
#
#   docker build -t bibier-serve --target serve .
#   docker run --rm -p 8000:8000 -e BIBIER_API_KEY -v "$PWD/outputs/quickstart:/model:ro" bibier-serve
#
#   docker build -t bibier-demo .
#   docker run --rm -p 7860:7860 -v "$PWD/outputs/quickstart:/model:ro" bibier-demo

FROM python:3.11.14-slim-bookworm AS base

# ffmpeg reads m4a, mp4, webm, aac, and wma; g++ builds the CPU kernels once, below.
# Not pinned: security updates of the base image's release are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg g++ \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 bibier
WORKDIR /app

# PyTorch's CPU build; the default one brings gigabytes of CUDA libraries.
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY recipes ./recipes
RUN pip install --no-cache-dir -c constraints.txt '.[demo,serve]'

USER 1000
RUN bibier kernels

FROM base AS serve
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["bibier", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS demo
EXPOSE 7860
ENTRYPOINT ["bibier", "demo", "/model", "--host", "0.0.0.0", "--port", "7860"]
