#!/usr/bin/env python3
"""Writes engine/timeline/performance.json: OKS, PCK@0.2 and PA-MPJPE of made-up poses by numpy and scipy.

    pip install numpy scipy && python3 tests/golden/make_motion.py engine/timeline/performance.json
"""
import json
import sys

import numpy as np
from scipy.spatial.transform import Rotation

NAMES = ("nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
         "left_hip right_hip left_knee right_knee left_ankle right_ankle").split()
SIGMAS = np.array([.26, .25, .25, .35, .35, .79, .79, .72, .72, .62, .62, 1.07, 1.07, .87, .87, .89, .89]) / 10
OTHER = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
BODY = np.array([[0, -.65, -.1], [.03, -.68, -.1], [-.03, -.68, -.1], [.07, -.66, 0], [-.07, -.66, 0], [.18, -.5, 0], [-.18, -.5, 0],
                 [.25, -.25, .02], [-.25, -.25, .02], [.28, 0, -.05], [-.28, 0, -.05], [.1, 0, 0], [-.1, 0, 0],
                 [.12, .4, -.03], [-.12, .4, -.03], [.12, .8, .05], [-.12, .8, .05]])


def measures(own, shown):
    # pictures: hips on hips, trunks of one length
    p, q = own["picture"], shown["picture"]
    hips = [(k[11] + k[12]) / 2 for k in (p, q)]
    trunk = [np.linalg.norm((k[5] + k[6]) / 2 - h) for k, h in zip((p, q), hips)]
    laid = (p - hips[0]) * trunk[1] / trunk[0] + hips[1]
    d = np.linalg.norm(laid - q, axis=1)
    area = np.prod(q.max(0) - q.min(0))
    oks = np.exp(-d**2 / (2 * area * (2 * SIGMAS)**2)).mean()
    pck = (d <= 0.2 * np.linalg.norm(q[5] - q[12])).mean()
    # space: Procrustes without reflection
    x, y = own["space"] - own["space"].mean(0), shown["space"] - shown["space"].mean(0)
    turn, _ = Rotation.align_vectors(y, x)
    turned = turn.apply(x)
    scale = (turned * y).sum() / (x * x).sum()
    e = 1e3 * np.linalg.norm(scale * turned - y, axis=1)
    return {"oks": oks, "pck": pck, "pa_mpjpe": e.mean(), "worst_joint": NAMES[e.argmax()], "worst_joint_error": e.max()}


def main():
    random = np.random.default_rng(9)
    rows = []
    for noise, mirrored in ((0.02, False), (0.06, False), (0.15, False), (0.4, False), (0.08, True)):
        def person(turn):
            space = Rotation.from_rotvec(turn).apply(BODY + random.normal(0, noise, BODY.shape)) * random.uniform(.8, 1.2)
            # A camera 3 m away; rounded, as the pose is kept
            picture = 500 + 900 * space[:, :2] / (3 + space[:, 2:])
            return {"picture": picture.round(3), "space": space.round(5)}
        learner, teacher = person(random.normal(0, .3, 3)), person(random.normal(0, .2, 3))
        reference = teacher
        if mirrored:
            reference = {k: v[OTHER] * ([-1, 1] if k == "picture" else [-1, 1, 1]) for k, v in teacher.items()}
        row = {k: round(v, 7) if isinstance(v, float) else v for k, v in measures(learner, reference).items()}
        lists = [{k: v.tolist() for k, v in p.items()} for p in (learner, teacher)]
        rows.append(row | {"mirrored": mirrored, "learner": lists[0], "teacher": lists[1]})
        print(row, file=sys.stderr)
    with open(sys.argv[1], "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


if __name__ == "__main__":
    main()
