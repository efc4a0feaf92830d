import pytest

from training.config import RunConfig, parse_overrides
from training.errors import UsageError

pytestmark = pytest.mark.training


def test_overrides_are_converted_to_the_type_of_each_setting():
    config = RunConfig().with_overrides({"epochs": "7", "learning_rate": "1e-2", "seed": "3"})

    assert (config.epochs, config.learning_rate, config.seed) == (7, 0.01, 3)


def test_unknown_setting_lists_the_known_ones():
    with pytest.raises(UsageError) as caught:
        RunConfig().with_overrides({"epoch": "7"})

    assert "unknown setting 'epoch' (did you mean epochs?); known are" in str(caught.value)
    for name in RunConfig.model_fields:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", "many", "valid integer"),
        ("epochs", "0", "greater than or equal to 1"),
        ("epochs", "1.5", "valid integer"),
        ("learning_rate", "nan", "finite"),
        ("learning_rate", "0", "greater than 0"),
        ("missing_rate", "0.9", "less than or equal to 0.5"),
        ("gates", "accuracy", "is not like accuracy>=0.9"),
        ("gates", "accuracy>0.9", "is not like accuracy>=0.9"),
        ("gates", "accuracy>=much", "is not like accuracy>=0.9"),
        ("gates", "Accuracy>=0.9", "no metric 'Accuracy' (did you mean accuracy?); there are acc"),
        ("gates", "accuracy<=0.9", "more accuracy is better, as in accuracy>=0.9"),
        ("gates", "rmse>=12", "less rmse is better, as in rmse<=12"),
        ("gates", "accuracy>=97", "accuracy is 1 at most, as in accuracy>=0.97"),
        ("gates", "r2>=1.5", "r2 is 1 at most"),
        ("gates", "log_loss<=-1", "log_loss is never below 0"),
        ("budget", "0s", "a time above 0, such as 30s, 10m or 2h, or a number of trials"),
        ("budget", "trials=0", "a number of trials above 0, such as trials=50"),
        ("budget", "10", "a time above 0"),
        ("budget", "10min", "a time above 0"),
        ("budget", "٣s", "a time above 0"),
        ("budget", "9999999999h", "a time above 0"),
        ("split", "randm", "'randm' is no way to divide rows (did you mean random?); there are a"),
        ("split", "grup:nest", "(did you mean group?); there are auto, random, stratified, group:"),
        ("split", "time", "group:COLUMN and time:COLUMN, such as time:date"),
        ("split", "random:x", "is no way to divide rows; there are"),
        ("variants", "int4", "is no choice of variants (did you mean int8?); there are auto"),
        ("seed", "-1", "greater than or equal to 0"),
    ],
)
def test_bad_value_says_what_is_expected(key: str, value: str, expected: str):
    with pytest.raises(UsageError) as caught:
        RunConfig().with_overrides({key: value})

    assert f"{key}={value}" in str(caught.value)
    assert expected in str(caught.value)
    assert "pattern" not in str(caught.value)
    assert "value error" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_must_leave_rows_to_train_on():
    with pytest.raises(UsageError, match="leave less than"):
        RunConfig().with_overrides({"validation_share": "0.4", "test_share": "0.4"})


@pytest.mark.parametrize(
    ("pairs", "message"), [(["epochs"], "key=value"), (["a=1", "a=2"], "given twice")]
)
def test_override_that_is_no_pair_is_refused(pairs: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        parse_overrides(pairs)


def test_value_may_hold_an_equals_sign():
    assert parse_overrides(["a=b=c"]) == {"a": "b=c"}


def test_hash_follows_the_settings():
    one = RunConfig(threads=1)

    assert one.sha256() == RunConfig(threads=1).sha256()
    assert one.sha256() != RunConfig(threads=1, seed=1).sha256()
