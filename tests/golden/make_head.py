#!/usr/bin/env python3
"""Prints the table RIGID of models/face/head.rs: the rigid part of a mean face, by the mesh net through LiteRT.

    pip install ai-edge-litert numpy pillow
    python3 tests/golden/make_head.py FACE_LANDMARK.tflite PICTURE:X,Y,SIDE [PICTURE:X,Y,SIDE]...

Each picture shows a face that looks at the camera, in the square about X, Y (pixels). It is looked at as it is and mirrored, upright and
rolled by up to 20 degrees, large and small: what the net gives for all these views of all pictures is brought to one place, size and
attitude (generalized Procrustes, Gower 1975), each face counts alike, and the mean is made symmetric. Unit: the distance of the outer
corners of the eyes; origin: their middle; x to the person's left, y down, z away from the camera. The facial line, from the top of the
forehead (10) to the chin (152), stands upright: that is a pitch of zero.
"""
import math
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

# Person's right and left point (the same twice: on the middle line) and weight. What brows, mouth and jaw move is left out; the
# outline of the head, which slides over the skull as it turns, counts less.
PAIRS = [
    (168, 168, 1.0), (6, 6, 1.0), (197, 197, 1.0), (195, 195, 1.0), (5, 5, 1.0), (4, 4, 1.0), (122, 351, 1.0), (188, 412, 1.0),
    (174, 399, 1.0), (198, 420, 1.0), (33, 263, 1.0), (133, 362, 1.0), (130, 359, 1.0), (243, 463, 1.0), (143, 372, 0.5),
    (35, 265, 0.5), (111, 340, 0.5), (116, 345, 0.5), (34, 264, 0.25), (127, 356, 0.25), (162, 389, 0.25), (21, 251, 0.25),
    (54, 284, 0.25), (103, 332, 0.25), (67, 297, 0.25), (109, 338, 0.25), (10, 10, 0.25),
]
SIDE = 192


class Net:
    def __init__(self, path):
        self.net = Interpreter(model_path=path, num_threads=1)
        self.net.allocate_tensors()

    def __call__(self, pixels):
        self.net.set_tensor(self.net.get_input_details()[0]["index"], pixels[None].astype(np.float32))
        self.net.invoke()
        outputs = [self.net.get_tensor(o["index"]).ravel().astype(np.float64) for o in self.net.get_output_details()]
        return max(outputs, key=len).reshape(-1, 3), min(outputs, key=len)[0]


def sample(picture, region):
    """Bilinear, the edge's pixels beyond the edge; (SIDE, SIDE, 3) in 0..1."""
    x, y, size, turn = region
    at = (np.arange(SIDE) + 0.5) * size / SIDE - size / 2
    dx, dy = np.meshgrid(at, at)
    px = x + dx * math.cos(turn) - dy * math.sin(turn) - 0.5
    py = y + dx * math.sin(turn) + dy * math.cos(turn) - 0.5
    x0, y0 = np.floor(px).astype(int), np.floor(py).astype(int)
    ax, ay = (px - x0)[..., None], (py - y0)[..., None]
    pixel = lambda i, j: picture[np.clip(j, 0, picture.shape[0] - 1), np.clip(i, 0, picture.shape[1] - 1)]
    top = pixel(x0, y0) * (1 - ax) + pixel(x0 + 1, y0) * ax
    bottom = pixel(x0, y0 + 1) * (1 - ax) + pixel(x0 + 1, y0 + 1) * ax
    return (top * (1 - ay) + bottom * ay) / 255


def mesh(net, picture, region):
    """468 points in pixels, the region found anew where the mesh says that the face is."""
    for _ in range(4):
        seen, score = net(sample(picture, region))
        x, y, size, turn = region
        dx, dy = ((seen[:, :2] / SIDE - 0.5) * size).T
        points = np.stack([
            x + dx * math.cos(turn) - dy * math.sin(turn), y + dx * math.sin(turn) + dy * math.cos(turn), seen[:, 2] / SIDE * size
        ], 1)
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        (ax, ay), (bx, by) = points[33, :2], points[263, :2]
        region = (*((low + high) / 2), (high - low).max() * 1.5, math.atan2(by - ay, bx - ax))
    assert score > 0, "no face there"
    return points, region


def aligned(points, to, weight):
    """`points` moved, turned and scaled onto `to`, by the pairs' points."""
    mean = lambda p: (weight[:, None] * p).sum(0) / weight.sum()
    a, b = points[INDEX] - mean(points[INDEX]), to[INDEX] - mean(to[INDEX])
    u, s, vt = np.linalg.svd((weight[:, None] * b).T @ a)
    s[2] *= np.sign(np.linalg.det(u @ vt))
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    scale = s.sum() / (weight[:, None] * a * a).sum()
    return (points - mean(points[INDEX])) @ turn.T * scale + mean(to[INDEX])


INDEX = [i for right, left, _ in PAIRS for i in {right, left}]


def main():
    net, faces = Net(sys.argv[1]), []
    weight = np.array([w for right, left, w in PAIRS for _ in {right, left}])
    for name in sys.argv[2:]:
        path, place = name.rsplit(":", 1)
        x, y, side = map(float, place.split(","))
        whole, views = Image.open(path).convert("RGB"), []
        for size in (1.0, 0.5):
            small = whole.resize((round(whole.width * size), round(whole.height * size)), Image.BOX)
            picture = np.asarray(small, np.float64)
            for flip in (False, True):
                at = (small.width - x * size if flip else x * size, y * size, side * size)
                for roll in (-20, -10, 0, 10, 20):
                    points, region = mesh(net, picture[:, ::-1] if flip else picture, (*at, 0.0))
                    points, _ = mesh(net, picture[:, ::-1] if flip else picture, (*region[:3], region[3] + math.radians(roll)))
                    views.append(points)
        faces.append(views)
    mean = faces[0][0]
    for _ in range(20):
        means = [np.mean([aligned(p, mean, weight) for p in views], 0) for views in faces]
        mean = np.mean([aligned(p, mean, weight) for p in means], 0)
    # the attitude: eyes level, facial line upright; then one half for both
    x = mean[263] - mean[33]
    x /= np.linalg.norm(x)
    y = mean[152] - mean[10]
    y -= x * (x @ y)
    y /= np.linalg.norm(y)
    unit = np.linalg.norm(mean[263] - mean[33])
    mean = (mean - (mean[33] + mean[263]) / 2) @ np.stack([x, y, np.cross(x, y)], 1) / unit
    print("// right, left, [x, y, z], weight")
    for right, left, w in PAIRS:
        half = (mean[left] + mean[right] * [-1, 1, 1]) / 2 * ([0, 1, 1] if right == left else [1, 1, 1])
        print(f"({right}, {left}, [{half[0]:.4f}, {half[1]:.4f}, {half[2]:.4f}], {w}),")
    for name, views in zip(sys.argv[2:], faces):
        away = [np.linalg.norm((aligned(p, mean, weight) - mean)[INDEX], axis=1).mean() for p in views]
        print(f"{name}: mean distance to it {np.mean(away):.4f} (views {min(away):.4f} to {max(away):.4f})", file=sys.stderr)


main()
