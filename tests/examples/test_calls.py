"""examples/calls.py"""


async def test_all_kinds_of_calls(start) -> None:
    server = start("calls.py", "server", "--listen", "tcp://127.0.0.1:0")
    client = start("calls.py", "client", "--server", await server.listens())
    assert await client.ends() == 0
    assert client.lines == [
        "1. a response: 7 / 2 = 3.5",
        "2. an error with a code: division_by_zero: 7 cannot be divided by zero",
        "3. a body of the wrong type: the body of 'divide' does not fit: Expected `float`, got `str`"
        " - at `$.dividend`",
        "4. a name without a handler: the peer has no handler named 'multiply'",
        "5. a time-out: no answer to 'count_down' within 0.3 s",
        "6. cancelled, which also cancels the handler",
        "   the server asks: send 10 to alice?",
        "7. requests in both directions: 10 sent to alice",
        "   the server asks: send 10 to mallory?",
        "8. an error after that: not confirmed",
        "9. concurrent: 100 divisions during a countdown to lift-off",
        "10. a single call without a line: 9 / 3 = 3",
    ]
    await server.says(r"^cancelled: \d+ of 1000 remaining$")
    await server.says(r"^cancelled: \d+ of 500 remaining$")
