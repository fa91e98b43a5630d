// Passes on what the microphone hears, as mono samples.
registerProcessor("recorder", class extends AudioWorkletProcessor {
  process([channels]) {
    if (channels.length) {
      const samples = Float32Array.from(channels[0], (_, place) =>
        channels.reduce((sum, channel) => sum + channel[place], 0) / channels.length);
      this.port.postMessage(samples, [samples.buffer]);
    }
    return true;
  }
});
