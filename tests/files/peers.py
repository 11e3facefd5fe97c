"""Programs that send and receive files, to be killed by tests. They print JSON; a sender prints its receipt last."""

import json
import shutil
import sys
from pathlib import Path

import landline

QUICK = landline.Backoff(first_s=0.05, cap_s=0.2)

reports = []


def report(**values):
    reports.append(values)
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


async def receive(directory, url):
    server = landline.Server()

    def fill(file):
        """Fill the disk up to ``left_bytes`` after the first offer was found to fit."""
        filler = Path(directory) / "filler"
        if left_bytes and not any("filled" in values for values in reports):
            with filler.open("wb", buffering=0) as file:
                while shutil.disk_usage(directory).free > left_bytes:
                    file.write(bytes(65536))
            report(filled=filler.stat().st_size)

    left_bytes = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    server.on_file(
        directory,
        limits=landline.FileLimits(min_free_bytes=0),
        accept=fill,
        progress=lambda file, progress: report(done=progress.bytes_done),
    )(lambda file, receipt: report(stored=receipt.name, resumed_from=receipt.resumed_from))
    async with server.listen(url) as endpoint:
        report(listening=str(endpoint))
        await server.serve_forever()


async def send(path, url):
    async with landline.connect(url, backoff=QUICK) as line:
        try:
            receipt = await line.send_file(path, progress=lambda progress: report(done=progress.bytes_done))
        except landline.FileRefused as refusal:
            report(refused=refusal.code, reason=refusal.reason)
            return
        report(resumed_from=receipt.resumed_from, hash=receipt.hash.hex(), sessions=line.epoch)


if __name__ == "__main__":
    landline.run({"receive": receive, "send": send}[sys.argv[1]](sys.argv[2], sys.argv[3]))
