"""A JSON-RPC server that does what its requests say, also what no server should do. Run as a program, by tests.

Its argument is the framing: `lines` or `headers`.
"""

import json
import os
import select
import sys

has_headers = sys.argv[1] == "headers"
held: dict[str, object] = {}
heard: list[object] = []
asked: list[object] = []


def frame(text: str) -> bytes:
    data = text.encode()
    return b"Content-Length: %d\r\n\r\n%b" % (len(data), data) if has_headers else data + b"\n"


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(value: object) -> None:
    write(frame(json.dumps(value)))


def answer(request_id: object, result: object) -> None:
    say({"jsonrpc": "2.0", "id": request_id, "result": result})


def hear() -> dict:
    stream = sys.stdin.buffer
    if not has_headers:
        line = stream.readline()
        return json.loads(line) if line else sys.exit()
    length = 0
    while line := stream.readline().strip():
        length = int(line.partition(b":")[2])
    return json.loads(stream.read(length)) if length else sys.exit()


def serve(message: dict) -> None:
    request_id, method, params = message.get("id"), message.get("method"), message.get("params")
    if method is None or request_id is None:
        heard.append({name: message[name] for name in message if name != "jsonrpc"})
    else:
        asked.append(method)
    match method:
        case None:  # the client's answer to `ask`
            if "asking" in held:
                answer(held.pop("asking"), message.get("result", message.get("error")))
        case "echo":
            answer(request_id, params)
        case "fail":
            say({"jsonrpc": "2.0", "id": request_id, "error": params})
        case "heard":
            answer(request_id, heard)
        case "hold" | "initialize":
            held[params["name"]] = request_id
            say({"jsonrpc": "2.0", "method": "holding", "params": params})
        case "release":
            answer(held.pop(params["name"]), params)
        case "ask":
            held["asking"] = request_id
            say({"jsonrpc": "2.0", "id": params["id"], "method": "question", "params": [1]})
        case "$/cancelRequest" if "obeys" in held:
            say({"jsonrpc": "2.0", "id": params["id"], "error": {"code": -32800, "message": "cancelled"}})
        case "$/cancelRequest" | "notifications/cancelled":
            say({"jsonrpc": "2.0", "method": "told", "params": heard[-1]})
            if "file" in held:
                open(held["file"], "x").close()
        case "tell":
            held["file"] = params["path"]
        case "obey":
            held["obeys"] = True
        case "raw":  # what is written, instead of an answer or before it
            write(params["text"].encode("latin-1") * params.get("times", 1))
            if params.get("answers"):
                answer(request_id, "ok")
        case "frames":  # the same, each text in its frame
            for text in params:
                write(frame(text.replace("ID", str(request_id))))
        case "asked":
            answer(request_id, asked)
        case "count":
            answer(request_id, len(heard))
        case "pause":
            select.select([], [], [], params["seconds"])
        case "huge":
            answer(request_id, "x" * params["size"])
        case "flood":
            for number in range(params["count"]):
                say({"jsonrpc": "2.0", "method": "flood", "params": [number]})
            answer(request_id, params["count"])
        case "close":
            os.close(params["fd"])
            if params["fd"] != 1:
                answer(request_id, "ok")
            os.read(os.pipe()[0], 1)
        case "sleep":
            os.read(os.pipe()[0], 1)
        case "exit":
            os._exit(params["code"])


while True:
    serve(hear())
