import pytest

from landline.codes import Code, code_from_wire


@pytest.mark.parametrize("code", list(Code))
def test_codes_below_200_invite_back_and_the_others_do_not(code):
    assert code.may_return is (code < 200)


@pytest.mark.parametrize("code", list(Code))
def test_a_known_code_comes_back_from_the_wire(code):
    assert code_from_wire(int(code)) is code


@pytest.mark.parametrize(
    ("number", "stands_for"),
    [
        (-1, Code.GOING_AWAY),
        (0, Code.GOING_AWAY),
        (199, Code.GOING_AWAY),
        (299, Code.NORMAL),
        (2**64, Code.NORMAL),
    ],
)
def test_an_unknown_code_stands_for_its_range(number, stands_for):
    assert code_from_wire(number) is stands_for
