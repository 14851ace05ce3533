/* Takes the microphone in blocks of 32 ms of 16-bit sound and hands each on with its level. */
const BLOCK = 512;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(BLOCK);
    this.filled = 0;
    this.power = 0;
  }

  process(inputs) {
    const channel = inputs[0][0];
    if (!channel) return true;
    for (const sample of channel) {
      const limited = Math.max(-1, Math.min(1, sample));
      this.block[this.filled++] = Math.round(limited * 32767);
      this.power += limited * limited;
      if (this.filled === BLOCK) {
        const level = Math.sqrt(this.power / BLOCK);
        this.port.postMessage({ sound: this.block.buffer, level }, [this.block.buffer]);
        this.block = new Int16Array(BLOCK);
        this.filled = 0;
        this.power = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
