// Speaks into a session from this page's microphone for so many seconds, and returns what it was told until `stopped`.
// mode 'recorder': MediaRecorder, WebM/Opus in pieces of a quarter of a second; 'worklet': 16 kHz PCM in tenths.
async (token, mode, seconds) => {
  const told = [];
  const socket = new WebSocket(`ws://${location.host}/api/realtime/transcribe?token=${token}`);
  const stopped = new Promise((resolve, reject) => {
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      told.push(message);
      if (message.type === 'stopped') resolve();
    };
    socket.onclose = (event) => reject(new Error(`closed with ${event.code} ${event.reason}`));
  });
  await Promise.race([stopped, new Promise((resolve) => { socket.onopen = resolve; })]);
  const microphone = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  const stop = () => socket.send(JSON.stringify({ type: 'stop' }));
  if (mode === 'recorder') {
    const recorder = new MediaRecorder(microphone, { mimeType: 'audio/webm;codecs=opus', audioBitsPerSecond: 32000 });
    let pieces = 0;
    recorder.ondataavailable = (event) => {
      socket.send(event.data);
      pieces += 1;
      if (pieces >= seconds * 4 && recorder.state === 'recording') recorder.stop();
    };
    recorder.onstop = stop;
    recorder.start(250);
  } else {
    const context = new AudioContext({ sampleRate: 16000 });
    const source = `registerProcessor('pieces', class extends AudioWorkletProcessor {
      constructor() { super(); this.piece = new Int16Array(1600); this.length = 0; }
      process([[channel]]) {
        for (const value of channel ?? []) {
          this.piece[this.length++] = Math.max(-32768, Math.min(32767, value * 32767));
          if (this.length === 1600) { this.port.postMessage(this.piece.slice()); this.length = 0; }
        }
        return true;
      }
    });`;
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([source], { type: 'text/javascript' })));
    const worklet = new AudioWorkletNode(context, 'pieces');
    let pieces = 0;
    worklet.port.onmessage = (event) => {
      if (pieces >= seconds * 10) return;
      socket.send(event.data.buffer);
      pieces += 1;
      if (pieces >= seconds * 10) stop();
    };
    context.createMediaStreamSource(microphone).connect(worklet);
    worklet.connect(context.destination);
    await context.resume();
  }
  await stopped;
  socket.onclose = null;
  socket.close();
  return told;
}
