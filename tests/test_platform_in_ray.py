"""The folder named platform/ must not hide Python's module of that name from Ray's workers either."""

import platform

import pytest

pytestmark = pytest.mark.ray


def test_worker_sees_pythons_platform_and_this_package(ray_session):
    @ray_session.remote(num_cpus=0)
    def look():
        import platform

        import promptfleet

        return platform.system(), platform.__file__, promptfleet.__version__

    system, file, version = ray_session.get(look.remote(), timeout=120)

    import promptfleet

    assert (system, file) == (platform.system(), platform.__file__)
    assert file.endswith("platform.py")
    assert version == promptfleet.__version__
