"""examples/telemetry.py"""

import re
import signal

from landline import parse_url
from landline.testing import FaultProxy


async def test_readings_of_a_thousand_sensors_are_collected(start) -> None:
    collector = start("telemetry.py", "collector", "--listen", "tcp://127.0.0.1:0")
    sensors = start("telemetry.py", "sensors", "--server", await collector.listens())
    await collector.says(
        r"^1000 online, \d{2,4} readings/s, \d+ skipped: boiler .*, cellar .*, hall .*, roof .* °C$"
    )
    assert await sensors.ends(signal.SIGINT) == 130
    await collector.says(r"^0 online, 0 readings/s, ")
    assert await collector.ends(signal.SIGINT) == 130


async def test_only_the_newest_reading_waits_during_an_outage(start, until) -> None:
    collector = start("telemetry.py", "collector", "--listen", "tcp://127.0.0.1:0", "--interval", "0.05")
    endpoint = parse_url(await collector.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        start("telemetry.py", "sensors", "--server", proxy.url, "--count", "20", "--interval", "0.02")
        found = await collector.says(r"^20 online, [1-9]\d* readings/s, (\d+) skipped: ")
        skipped = int(found.group(1))

        def newly_skipped() -> int:
            return max(int(count) for count in re.findall(r"(\d+) skipped: ", collector.out)) - skipped

        async def lose_the_network_for_half_a_second() -> None:
            begin = len(collector.out)
            await proxy.refuse()
            proxy.reset()
            await until(lambda: re.search(r"^(0 online, .*\n){11}", collector.out[begin:], re.MULTILINE))
            end = len(collector.out)
            proxy.accept()
            await until(lambda: re.search(r"^20 online, [1-9]", collector.out[end:], re.MULTILINE))

        # Of about 25 readings that a sensor makes in an outage of half a second, one waits. A busy machine makes fewer,
        # so outages are repeated until enough were made. If all readings waited, none would ever be skipped.
        for _ in range(20):
            await lose_the_network_for_half_a_second()
            if newly_skipped() >= 20 * 10:
                return
        raise AssertionError(f"{newly_skipped()} readings were skipped in 20 outages")


async def test_the_plot_on_a_terminal(start, start_on_terminal) -> None:
    collector = start_on_terminal(
        "telemetry.py", "collector", "--listen", "tcp://127.0.0.1:0", "--interval", "0.1"
    )
    url = (await collector.shows(r"listening on (\S+?);")).group(1)
    start("telemetry.py", "sensors", "--server", url, "--count", "8", "--interval", "0.1")
    await collector.shows("8 of 8 sensors online")
    await collector.shows(r"boiler.* 2 .*[▁▂▃▄▅▆▇█]{5}")
    assert await collector.ends(signal.SIGINT) == 130
    assert collector.err == ""
