# Verifies an audit log as docs/AUDIT.md describes it: verify.py DIRECTORY PUBLIC_KEY
import hashlib, json, pathlib, subprocess, sys, tempfile

directory, public_key = pathlib.Path(sys.argv[1]), sys.argv[2]
hash, sequence, log, signed = None, None, None, 0
for file in sorted(directory.glob("audit-*.jsonl")):
    lines = file.read_bytes().split(b"\n")
    assert lines.pop() == b"", f"{file}: the last line is cut off"
    for number, line in enumerate(lines, 1):
        place, record = f"{file}:{number}", json.loads(line)
        content, seal, end = line[:-75], line[-75:-66], line[-2:]
        assert (seal, end) == (b',"hash":"', b'"}'), place
        if number == 1:
            first = int(file.stem.removeprefix("audit-"))
            if hash is None:
                hash, sequence, log = bytes.fromhex(record["previous"]), first - 1, record["log"]
            assert (record["event"], record["log"], first) == ("file", log, sequence + 1), place
            assert record["previous"] == hash.hex(), place
        previous, hash = hash, hashlib.sha256(hash + content).digest()
        assert line[-66:-2] == hash.hex().encode(), f"{place}: the hash does not fit"
        sequence += 1
        assert record["seq"] == sequence, place
        if record["event"] == "checkpoint":
            statement = (f"keystead audit checkpoint v1\nlog {log}\nsequence {sequence}\n"
                         f"previous {previous.hex()}\ntime {record['time']}\n")
            with tempfile.NamedTemporaryFile() as said, tempfile.NamedTemporaryFile() as signature:
                pathlib.Path(said.name).write_text(statement)
                pathlib.Path(signature.name).write_bytes(bytes.fromhex(record["signature"]))
                subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public_key, "-rawin",
                                "-in", said.name, "-sigfile", signature.name], check=True, stdout=subprocess.DEVNULL)
            signed = sequence
assert signed, "nothing is signed"
print(f"unaltered up to record {sequence}, signed up to {signed}")
