// Passes sound on from the browser's audio thread, as it is; media.js makes mono at 16 kHz of it.
class Recorder extends AudioWorkletProcessor {
  process([channels]) {
    if (channels.length > 0) {
      const mono = new Float32Array(channels[0].length);
      for (const channel of channels) {
        for (let i = 0; i < mono.length; i++) mono[i] += channel[i] / channels.length;
      }
      this.port.postMessage(mono, [mono.buffer]);
    }
    return true;
  }
}
registerProcessor("recorder", Recorder);
