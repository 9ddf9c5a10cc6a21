// What is drawn: the skeleton over the video, the level of a voice, and the pitch curve.

const LIMBS = [
  [11, 12], [11, 23], [12, 24], [23, 24], // trunk
  [11, 13], [13, 15], [15, 19], [12, 14], [14, 16], [16, 20], // arms and hands
  [23, 25], [25, 27], [27, 31], [24, 26], [26, 28], [28, 32], // legs and feet
];
const HEAD = [0, 7, 8];
const LEFT = "#8fe0c8";
const RIGHT = "#ffd08a";
const MIDDLE = "#f4f6f2";
const SEEN = 0.5;

/** Fits a canvas to its place on the screen: its context, width and height in CSS pixels. */
export function fit(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** People as the server found them in a picture, over the place that the picture takes in the stage. */
export function skeleton(canvas, pose) {
  const { context, width, height } = fit(canvas);
  if (!pose || pose.people.length === 0) return false;
  const scale = Math.min(width / pose.width, height / pose.height);
  const left = (width - pose.width * scale) / 2;
  const top = (height - pose.height * scale) / 2;
  const place = ([x, y]) => [left + x * pose.width * scale, top + y * pose.height * scale];
  const thick = Math.max(2.5, Math.min(width, height) / 130);
  context.lineCap = "round";
  context.shadowColor = "rgb(0 0 0 / 45%)";
  context.shadowBlur = thick;
  for (const person of pose.people) {
    const points = person.landmarks;
    const shown = (i) => points[i] && points[i][0] !== null && points[i][3] >= SEEN;
    const side = (a, b) => (a % 2 !== b % 2 ? MIDDLE : a % 2 === 1 ? LEFT : RIGHT);
    for (const [a, b] of LIMBS) {
      if (!shown(a) || !shown(b)) continue;
      context.beginPath();
      context.moveTo(...place(points[a]));
      context.lineTo(...place(points[b]));
      context.lineWidth = thick;
      context.strokeStyle = side(a, b);
      context.stroke();
    }
    const dots = [...new Set(LIMBS.flat()), ...HEAD].filter(shown);
    for (const i of dots) {
      context.beginPath();
      context.arc(...place(points[i]), thick * (HEAD.includes(i) ? 0.8 : 1.05), 0, 2 * Math.PI);
      context.fillStyle = MIDDLE;
      context.fill();
    }
  }
  return true;
}

/** The last levels of a voice as a quiet wave. */
export function level(canvas, levels) {
  const { context, width, height } = fit(canvas);
  const step = 6;
  const count = Math.min(levels.length, Math.floor(width / step / 1.3));
  const from = (width - count * step) / 2;
  context.lineCap = "round";
  context.lineWidth = 3;
  for (let i = 0; i < count; i++) {
    const tall = Math.max(1.5, Math.sqrt(levels[levels.length - count + i]) * height * 0.4);
    context.strokeStyle = `rgb(143 224 200 / ${0.2 + (0.75 * i) / count})`;
    context.beginPath();
    context.moveTo(from + i * step, height / 2 - tall);
    context.lineTo(from + i * step, height / 2 + tall);
    context.stroke();
  }
}

/** The pitch curve on a scale of semitones, and seconds below it. */
export function curve(canvas, pitch, seconds, perSecond, colours) {
  const { context, width, height } = fit(canvas);
  const base = height - 14;
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = colours.soft;
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  for (let s = 0; s <= width / perSecond; s++) {
    const x = Math.round(s * perSecond) + 0.5;
    context.globalAlpha = s % 5 === 0 ? 1 : 0.45;
    context.beginPath();
    context.moveTo(x, 104);
    context.lineTo(x, s % 5 === 0 ? 110 : 107);
    context.stroke();
    if (s % 5 === 0 && s > 0) context.fillText(`${s} s`, x + 3, base + 9);
  }
  context.globalAlpha = 1;
  const voiced = pitch.filter(([, hz]) => hz !== null).map(([, hz]) => hz).sort((a, b) => a - b);
  if (voiced.length === 0) return;
  const low = Math.log2(voiced[Math.floor(voiced.length * 0.02)]) - 0.25;
  const high = Math.max(low + 1, Math.log2(voiced[Math.floor(voiced.length * 0.98)]) + 0.25);
  const y = (hz) => 98 - 84 * Math.max(0, Math.min(1, (Math.log2(hz) - low) / (high - low)));
  context.strokeStyle = colours.accent;
  context.lineWidth = 2.5;
  context.lineJoin = context.lineCap = "round";
  context.beginPath();
  let before = null;
  for (const [t, hz] of pitch) {
    if (hz === null) { before = null; continue; }
    const joined = before && t - before[0] < 0.05 && Math.abs(Math.log2(hz / before[1])) < 0.35;
    if (joined) context.lineTo(t * perSecond, y(hz));
    else { context.moveTo(t * perSecond, y(hz)); context.lineTo(t * perSecond + 0.01, y(hz)); }
    before = [t, hz];
  }
  context.stroke();
}
