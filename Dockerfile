# Targets: `serve` (the default) answers requests; `train` makes the models that it serves.
# See docs/deployment.md.

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS base
# Fresh named volumes take their owner from here.
RUN install -d -o 10001 -g 10001 /models /cache
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MODELPORT_MODELS=/models
WORKDIR /opt/modelport


# ---------------------------------------------------------------- what the service needs
FROM base AS serve-deps
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], sep="\n", file=open("serve.txt", "w")); \
print(*project["optional-dependencies"]["train"], sep="\n", file=open("train.txt", "w"))'
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install \
        --no-cache-dir --no-compile --requirement serve.txt --constraint constraints.txt \
    && find /opt/venv -type d -name tests -prune -exec rm -r {} +


# ---------------------------------------------------------------- what training needs besides
FROM serve-deps AS train-deps
# The address of PyTorch's CPU wheel index saves several GB where no GPU is used.
ARG MODELPORT_TORCH_INDEX=""
RUN pip --python /opt/venv/bin/python install \
        --no-cache-dir --no-compile --requirement train.txt --constraint constraints.txt \
        ${MODELPORT_TORCH_INDEX:+--extra-index-url "$MODELPORT_TORCH_INDEX"}
COPY training/data-packages.txt ./
RUN pip --python /opt/venv/bin/python install \
        --no-cache-dir --no-compile --no-deps --requirement data-packages.txt


# ---------------------------------------------------------------- target train
FROM base AS train
COPY --from=train-deps /opt/venv /opt/venv
COPY app ./app
COPY training ./training
COPY deploy/train-once.sh ./deploy/
# The user has no home. Training starts several processes: they share the bytecode of the first.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE="" \
    PYTHONPYCACHEPREFIX=/tmp/pycache
USER 10001:10001
CMD ["deploy/train-once.sh", "digits", "penguins"]


# ---------------------------------------------------------------- target serve
FROM base AS serve
COPY --from=serve-deps /opt/venv /opt/venv
COPY app ./app
# The root is read-only at run time: without bytecode, every start and every health check would
# compile anew. Python's own modules have none either, so it is made for all that is imported.
ENV PYTHONPYCACHEPREFIX=/opt/pycache
RUN PYTHONDONTWRITEBYTECODE='' python -c 'import app.__main__, app.doctor, app.healthcheck, \
app.pin, app.planning, app.server, app.supervisor, app.engine.proof.in_child, \
pydantic.v1, uvicorn.loops.auto, uvicorn.loops.uvloop, uvicorn.lifespan.off, \
uvicorn.protocols.http.httptools_impl, uvicorn.protocols.websockets.auto; \
from PIL import Image; Image.preinit()'
ENV MODELPORT_HOST=0.0.0.0 \
    MODELPORT_PORT=8000 \
    MODELPORT_CACHE=/cache \
    MODELPORT_DRAIN_DELAY_S=0.5
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "app.healthcheck"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
