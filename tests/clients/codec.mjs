// Decodes and encodes again whatever MessagePack comes on stdin, one after the other: a length (u32), then the bytes.
// Answers with a status (0: understood, 1: refused), a length, and the bytes, or a sentence.

import { MessagePackError } from "../../clients/js/errors.js";
import { decode, encode } from "../../clients/js/messagepack.js";

let rest = Buffer.alloc(0);
for await (const chunk of process.stdin) {
  rest = Buffer.concat([rest, chunk]);
  while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE(0)) {
    const end = 4 + rest.readUInt32BE(0);
    const body = new Uint8Array(rest.subarray(4, end));
    rest = rest.subarray(end);
    let status = 0;
    let answer;
    try {
      answer = Buffer.from(encode(decode(body)));
    } catch (error) {
      if (!(error instanceof MessagePackError)) throw error;
      status = 1;
      answer = Buffer.from(error.message);
    }
    const head = Buffer.alloc(5);
    head.writeUInt8(status);
    head.writeUInt32BE(answer.length, 1);
    process.stdout.write(Buffer.concat([head, answer]));
  }
}
