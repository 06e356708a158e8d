from pathlib import Path

import pytest

from ftvm.arbiters.etcdhttp import EtcdAddress, parse_etcd_url
from ftvm.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "members", "prefix"),
    [
        ("etcd://h", (("h", 2379),), "/ftvm/"),
        ("etcd://h:1/", (("h", 1),), "/ftvm/"),
        ("etcd://a:1,b,c:3/my/vms", (("a", 1), ("b", 2379), ("c", 3)), "/my/vms/"),
        ("etcd://[::1]:5,[fe80::1]", (("::1", 5), ("fe80::1", 2379)), "/ftvm/"),
    ],
)
def test_url_names_members_and_prefix(url: str, members: tuple[tuple[str, int], ...], prefix: str) -> None:
    address = parse_etcd_url(url)

    assert (address.members, address.prefix, address.tls, address.user) == (members, prefix, None, None)


@pytest.mark.parametrize(
    "url",
    [
        "etcd://",
        "etcd://h:port",
        "etcd://h:0",
        "etcd://h:70000",
        "etcd://a,,b",
        "etcd://h?x=1",
        "etcd://h#f",
        "http://h",
    ],
)
def test_url_that_names_no_cluster_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_etcd_url(url)

    assert url in str(caught.value)


def test_password_in_a_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="a password in a URL is public") as caught:
        parse_etcd_url("etcd://root:hunter2@h")

    assert "hunter2" not in str(caught.value)


def test_password_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("secret")
    (tmp_path / "pw").chmod(0o644)

    with pytest.raises(ConfigError, match=r"is readable by others \(mode 0644\): run `chmod 600"):
        parse_etcd_url(f"etcd://root@h?password_file={tmp_path / 'pw'}")


def test_missing_files_are_named() -> None:
    with pytest.raises(ConfigError, match=r"password file /none/pw cannot be read"):
        parse_etcd_url("etcd://root@h?password_file=/none/pw")
    with pytest.raises(ConfigError, match=r"cannot use the TLS files for etcd \(/none/ca\)"):
        parse_etcd_url("etcds://h?ca=/none/ca")


def test_user_without_a_password_is_refused() -> None:
    with pytest.raises(ConfigError, match="both a user and a password"):
        EtcdAddress(members=(("h", 1),), user="root")


def test_tls_verifies_who_answers() -> None:
    tls = parse_etcd_url("etcds://h").tls

    assert tls is not None
    assert tls.check_hostname
    assert tls.verify_mode.name == "CERT_REQUIRED"
