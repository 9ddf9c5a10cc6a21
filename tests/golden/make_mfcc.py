"""Prints the numbers of `models/prosody/compare_tests.rs`: librosa's MFCC of a sweep with a tone, with librosa 0.10 or later."""
import librosa
import numpy as np

t = np.arange(6400) / 16000
y = 0.3 * np.sin(2 * np.pi * (200 * t + 1500 * t**2)) + np.where(t > 0.2, 0.1 * np.sin(2 * np.pi * 3100 * t), 0)
c = librosa.feature.mfcc(y=np.append(y, np.zeros(400)), sr=16000, n_mfcc=13, n_fft=400, hop_length=160, n_mels=40, fmin=0, fmax=8000,
                         center=True, pad_mode="reflect", power=2.0, htk=False, norm="ortho")
for frame in (0, 7, 20, 31, 39):
    print(f"({frame}, [{', '.join(f'{x:.3f}' for x in c[:, frame])}]),")
