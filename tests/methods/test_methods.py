import pytest

from promptfleet.errors import ConfigError
from promptfleet.methods import METHODS, config_class, load_method
from promptfleet.methods.pfedmoap import PFedMoAP, PFedMoAPConfig
from promptfleet.methods.protocol import Method


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_name_is_a_method(name):
    assert isinstance(load_method(name), Method)


def test_a_method_brings_its_configuration():
    assert isinstance(load_method("pfedmoap"), PFedMoAP)
    assert config_class("pfedmoap") is PFedMoAPConfig


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"^unknown method 'pfedmap'; did you mean 'pfedmoap'\?$"):
        load_method("pfedmap")
