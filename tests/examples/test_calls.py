"""examples/calls.py"""


async def test_every_kind_of_call(start) -> None:
    server = start("calls.py", "server", "--listen", "tcp://127.0.0.1:0")
    client = start("calls.py", "client", "--server", await server.listens())
    assert await client.ends() == 0
    assert client.lines == [
        "1. an answer: 7 / 2 = 3.5",
        "2. an error, with a code for programs: division_by_zero: 7 cannot be divided by zero",
        "3. a body that does not fit: the body of 'divide' does not fit: Expected `float`, got `str`"
        " - at `$.dividend`",
        "4. a call nobody answers to: the peer has no handler named 'multiply'",
        "5. not in time: no answer to 'count_down' within 0.3 s",
        "6. cancelled: the server's handler ends as well",
        "   the server asks: send 10 to alice?",
        "7. calls in both directions: 10 sent to alice",
        "   the server asks: send 10 to mallory?",
        "8. and their errors: you did not confirm",
        "9. side by side: 100 divisions while counting down to lift-off",
        "10. one call, and no line to keep: 9 / 3 = 3",
    ]
    await server.says(r"^cancelled with \d+ left of 1000$")
    await server.says(r"^cancelled with \d+ left of 500$")
