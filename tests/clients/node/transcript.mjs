// The first conversation of a gateway client, word for word, for every kind of client.

import assert from "node:assert/strict";

/** Sends each line that begins with `>` and expects each that begins with `<`. */
export async function converse(client, transcript) {
  for (const line of transcript.split("\n").map((line) => line.trim()).filter(Boolean)) {
    const text = line.slice(2);
    if (line.startsWith("> ")) client.send(text);
    else assert.equal(await client.inbox.next(), text);
  }
}

export const firstConversation = (token) => `
  > {"type":"ping"}
  < {"type":"pong"}
  > {"type":"subscribe","data":{"channel":"news"}}
  < {"type":"error","data":{"error":"Authentication required"}}
  > {"type":"auth","data":{"token":"${token}"}}
  < {"type":"auth_success","data":{"user_id":"ann"}}
  > {"type":"subscribe","data":{"channel":"news"}}
  < {"type":"subscribed","data":{"channel":"news"}}
  > {"type":"publish","data":{"channel":"news","type":"headline","data":{"é": [1, 2.0, "€ 😀"]}}}
  < {"type":"headline","channel":"news","data":{"é": [1, 2.0, "€ 😀"]}}
  > {"type":"unsubscribe","data":{"channel":"news"}}
  < {"type":"unsubscribed","data":{"channel":"news"}}
  > {"type":"publish","data":{"channel":"news","type":"headline","data":"nobody hears this"}}
  > {"type":"ping"}
  < {"type":"pong"}
`;
