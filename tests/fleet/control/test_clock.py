from landline.fleet.control.clock import SteadyClock, boot_time

DAY_S = 86_400.0


class Times:
    """A time of day that can be set, and a time that passes."""

    def __init__(self):
        self.wall = 1_000_000.0
        self.elapsed = 50.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.elapsed)

    def pass_by(self, seconds):
        self.wall += seconds
        self.elapsed += seconds


def test_it_tells_the_time_of_day():
    times = Times()
    assert times.clock() == times.wall
    times.pass_by(10)
    assert times.clock() == times.wall
    assert times.clock.ahead_s == 0


def test_it_goes_forward_with_the_time_of_day():
    times = Times()
    times.wall += DAY_S
    assert times.clock() == times.wall
    times.pass_by(10)
    assert times.clock() == times.wall


def test_it_does_not_go_back_with_it_and_does_not_stand_still():
    times = Times()
    before = times.clock()
    times.wall -= DAY_S
    assert times.clock() == before
    times.pass_by(10)
    assert times.clock() == before + 10
    assert times.clock.ahead_s == DAY_S


def test_it_follows_when_it_may():
    times = Times()
    times.wall -= DAY_S
    times.clock()
    times.clock.follow_wall()
    assert times.clock() == times.wall
    times.pass_by(10)
    assert times.clock() == times.wall


def test_a_jump_there_and_back_is_one_step_ahead():
    times = Times()
    times.wall += DAY_S
    times.clock()
    times.wall -= DAY_S
    times.pass_by(5)
    assert times.clock.ahead_s == DAY_S
    times.clock.follow_wall()
    assert times.clock() == times.wall


def test_it_begins_where_another_one_was():
    times = Times()
    later = times.wall + DAY_S
    times.clock.begin_at(later)
    times.pass_by(3)
    assert times.clock() == later + 3
    times.clock.begin_at(0)
    assert times.clock() == later + 3


def test_time_since_boot_never_goes_back():
    assert boot_time() <= boot_time()
