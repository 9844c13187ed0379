"""What a session sees of the site's shared volume: the user's home, and the projects that groups open. Pure."""

from canfar_auth.identity import Identity
from canfar_site.settings import Project, Site, Volume
from canfar_spawner.spec import Mount


def mounts(identity: Identity, home: str, site: Site) -> tuple[Mount, ...]:
    """The directories of the volume in this user's session; none in a site without a cluster.

    A directory is mounted by itself, so what is beside it cannot be reached by any path. `home` is the user's,
    and has been checked to be one directory below `site.storage.homes`.
    """
    if site.cluster is None:
        return ()
    volume = site.cluster.volume
    own = Mount(home, _within(volume, site.storage.homes.name, home.rpartition("/")[2]))
    return (own, *(_project(project, identity, site, volume) for project in opened(identity, volume)))


def opened(identity: Identity, volume: Volume) -> tuple[Project, ...]:
    """The projects that a group of the user opens, in the order in which the site names them."""
    groups = identity.groups.groups
    return tuple(project for project in volume.projects if groups & (project.write | project.read))


def _project(project: Project, identity: Identity, site: Site, volume: Volume) -> Mount:
    return Mount(
        str(site.storage.projects / project.name),
        _within(volume, site.storage.projects.name, project.name),
        read_only=not identity.groups.groups & project.write,
    )


def _within(volume: Volume, *parts: str) -> str:
    return "/".join([*([volume.sub_path] if volume.sub_path else []), *parts])
