"""`canfar-hub check`: whether a site file and its catalogue can be used, before a hub does."""

import argparse

from canfar_auth.claims import ClaimsReader
from canfar_hub.problem import Problem
from canfar_site.settings import load_site
from canfar_site.yamlfile import FileError
from canfar_spawner.catalogue import CatalogueFolder
from canfar_spawner.kinds import kinds_of


def run(options: argparse.Namespace) -> int:
    """Prints what is on offer, and what is wrong. Returns 1 where a catalogue file would be left out."""
    try:
        site = load_site(options.site)
    except FileError as error:
        raise Problem(f"The site file is not usable. {error}") from None
    try:
        ClaimsReader(site.groups)
    except ValueError as error:
        raise Problem(f"The site file is not usable. {options.site}: groups: {error}") from None
    catalogue = CatalogueFolder(site.catalogue, kinds_of(site)).read()
    print(f"{site.name}: {len(catalogue.profiles)} profiles in {site.catalogue}")
    for profile in catalogue.profiles:
        print(f"  {profile.profile}: {profile.title} ({', '.join(profile.kinds)})")
    return 1 if catalogue.problems else 0
