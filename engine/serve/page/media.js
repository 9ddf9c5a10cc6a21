// Camera, microphone and files to what the server takes: 16-bit mono at 16 kHz, and JPEG pictures with their times.

export const RATE = 16000;
const PIECE = RATE / 10; // samples of a message
const PICTURES = 15; // most a second
const SIDE = 640; // longer side of a picture
const HALF = 16; // taps of the filter on either side, in samples of the lower rate

/** Any rate to 16 kHz by a windowed sinc, in pieces of any length. */
export class Resampler {
  constructor(rate) {
    this.step = rate / RATE;
    this.wide = Math.max(1, this.step); // the filter is as wide as the lower rate asks for
    this.reach = Math.ceil(HALF * this.wide);
    this.held = new Float32Array(this.reach); // silence before the first sample
    this.at = this.reach; // of the next sample, in `held`
  }

  push(input) {
    if (this.step === 1) return input;
    const all = new Float32Array(this.held.length + input.length);
    all.set(this.held);
    all.set(input, this.held.length);
    const out = [];
    while (this.at + this.reach < all.length) {
      let sum = 0;
      let weights = 0;
      const middle = Math.floor(this.at);
      for (let i = middle - this.reach + 1; i <= middle + this.reach; i++) {
        const x = (i - this.at) / this.wide;
        const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / HALF);
        const weight = Math.abs(x) >= HALF ? 0 : (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x)) * window;
        sum += weight * all[i];
        weights += weight;
      }
      out.push(sum / weights);
      this.at += this.step;
    }
    const drop = Math.max(0, Math.floor(this.at) - this.reach);
    this.held = all.slice(drop);
    this.at -= drop;
    return Float32Array.from(out);
  }
}

function message(kind, seconds, body) {
  const bytes = new Uint8Array(9 + body.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, kind);
  view.setFloat64(1, seconds, true);
  bytes.set(new Uint8Array(body), 9);
  return bytes;
}

/** Samples of -1..1 as messages of 0.1 s; what does not fill one waits. */
export class Sound {
  constructor(send) {
    this.send = send;
    this.held = [];
    this.samples = 0;
    this.start = 0;
  }

  push(samples) {
    for (const s of samples) this.held.push(s);
    while (this.held.length >= PIECE) this.pass(this.held.splice(0, PIECE));
  }

  pass(samples) {
    const pcm = new DataView(new ArrayBuffer(samples.length * 2));
    samples.forEach((s, i) => pcm.setInt16(i * 2, Math.max(-32768, Math.min(32767, Math.round(s * 32768))), true));
    this.send(message(1, this.start + this.samples / RATE, pcm.buffer));
    this.samples += samples.length;
  }

  end() {
    if (this.held.length > 0) this.pass(this.held.splice(0));
  }
}

/** Takes pictures of what a video or image shows, at most so many a second and one at a time. */
export class Pictures {
  constructor(send) {
    this.send = send;
    this.canvas = document.createElement("canvas");
    this.last = -1;
    this.busy = false;
  }

  async take(source, width, height, t, mayWait) {
    if (this.busy || !width || t <= this.last || (mayWait && t - this.last < 1 / PICTURES - 0.005)) return;
    this.busy = true;
    this.last = t;
    const scale = Math.min(1, SIDE / Math.max(width, height));
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.getContext("2d", { alpha: false }).drawImage(source, 0, 0, this.canvas.width, this.canvas.height);
    const blob = await new Promise((done) => this.canvas.toBlob(done, "image/jpeg", 0.82));
    if (blob) this.send(message(2, t, await blob.arrayBuffer()));
    this.busy = false;
  }
}

/** What comes from camera and microphone. `onSamples` sees the sound at 16 kHz. */
export async function openDevices(wantsPictures, wantsSound) {
  if (!navigator.mediaDevices) throw new Error("insecure");
  return navigator.mediaDevices.getUserMedia({
    video: wantsPictures && { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 }, facingMode: "user" },
    audio: wantsSound && { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
}

/** Passes the stream's sound on until the returned function is called. */
export async function tap(stream, onSamples) {
  if (stream.getAudioTracks().length === 0) return () => {};
  const context = new AudioContext();
  await context.resume();
  const resampler = new Resampler(context.sampleRate);
  const source = context.createMediaStreamSource(stream);
  const pass = (samples) => onSamples(resampler.push(samples));
  if (context.audioWorklet) {
    await context.audioWorklet.addModule("/page/recorder.js");
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 1 });
    node.port.onmessage = (event) => pass(event.data);
    source.connect(node).connect(context.destination); // it is silent; unconnected nodes are not run
  } else {
    const node = context.createScriptProcessor(4096, 1, 1);
    node.onaudioprocess = (event) => pass(event.inputBuffer.getChannelData(0).slice());
    source.connect(node).connect(context.destination);
  }
  return () => context.close();
}

/** The sound of a file at 16 kHz; none where it has none that the browser reads. */
export async function decodeSound(file) {
  try {
    const context = new OfflineAudioContext(1, 1, RATE);
    const buffer = await context.decodeAudioData(await file.arrayBuffer());
    const mono = new Float32Array(buffer.length);
    for (let c = 0; c < buffer.numberOfChannels; c++) {
      buffer.getChannelData(c).forEach((s, i) => { mono[i] += s / buffer.numberOfChannels; });
    }
    return mono;
  } catch {
    return new Float32Array(0);
  }
}
