"""The process behind ``interpreters.run_tflm``: reads (model, inputs), answers (status, outputs)."""

from __future__ import annotations

import os
import pickle
import struct
import sys

import numpy as np


def run(model: bytes, inputs: np.ndarray) -> np.ndarray:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model, arena_size=8 * 2**20)
    shape = interpreter.get_input_details(0)["shape"]
    outputs = []
    for sample in inputs:
        interpreter.set_input(sample.reshape(shape), 0)
        interpreter.invoke()
        output = np.array(interpreter.get_output(0))
        outputs.append(output[0] if output.shape[:1] == (1,) else output)
    return np.stack(outputs)


def main() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what TFLM prints must not mix with the replies
    while header := sys.stdin.buffer.read(8):
        model, inputs = pickle.loads(sys.stdin.buffer.read(struct.unpack("<Q", header)[0]))
        try:
            reply = ("ok", run(model, inputs))
        except Exception as error:  # every failure goes back to the test
            reply = ("failed", f"{type(error).__name__}: {error}")
        message = pickle.dumps(reply)
        replies.write(struct.pack("<Q", len(message)) + message)
        replies.flush()


if __name__ == "__main__":
    main()
