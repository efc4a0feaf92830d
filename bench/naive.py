"""`python -m bench.naive MODEL PORT`: serving a model as tutorials show it.

FastAPI, a pydantic model of the body, a `def` endpoint and one `session.run` a request.
"""

import base64
import io
import sys
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

from bench.runtime import scores, session

app = FastAPI()
model = session(Path(sys.argv[1]))


class Features(BaseModel):
    features: list[float]


class Row(BaseModel):
    f0: float
    f1: float
    f2: float
    f3: float
    f4: float
    f5: float
    f6: float
    f7: float
    f8: float
    f9: float
    f10: float
    f11: float
    f12: float
    f13: float
    f14: float
    f15: float


class Pixels(BaseModel):
    pixels: list[list[float]]


class Picture(BaseModel):
    """A JPEG file in base64."""

    image: str


class Answer(BaseModel):
    scores: list[float]


@app.post("/features")
def predict_features(body: Features) -> Answer:
    x = np.array([body.features], dtype=np.float32)
    return Answer(scores=scores(model, x)[0].tolist())


@app.post("/row")
def predict_row(body: Row) -> Answer:
    x = np.array([list(body.model_dump().values())], dtype=np.float32)
    return Answer(scores=scores(model, x)[0].tolist())


@app.post("/pixels")
def predict_pixels(body: Pixels) -> Answer:
    x = np.array([[body.pixels]], dtype=np.float32)
    return Answer(scores=scores(model, x)[0].tolist())


@app.post("/picture")
def predict_picture(body: Picture) -> Answer:
    picture = Image.open(io.BytesIO(base64.b64decode(body.image))).convert("RGB")
    return Answer(scores=scores(model, np.asarray(picture)[None])[0].tolist())


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning")
