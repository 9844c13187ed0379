"""A group service, its registry and its capabilities, as GMS 1.0 and VOSI describe them."""

from __future__ import annotations

from tests.support.faults import FaultyServer, Received, Reply

CAPABILITIES = """<?xml version="1.0" encoding="UTF-8"?>
<vosi:capabilities xmlns:vosi="http://www.ivoa.net/xml/VOSICapabilities/v1.0"
    xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <!-- Two ways in, of which one is for tokens. -->
  <capability standardID="ivo://ivoa.net/std/VOSI#availability">
    <interface xsi:type="vs:ParamHTTP"><accessURL use="full">BASE/availability</accessURL></interface>
  </capability>
  <capability standardID="ivo://ivoa.net/std/GMS#search-1.0">
    <interface xsi:type="vs:ParamHTTP" role="std">
      <accessURL use="full">BASE/with-certificates</accessURL>
      <securityMethod standardID="ivo://ivoa.net/sso#tls-with-certificate"/>
    </interface>
    <interface xsi:type="vs:ParamHTTP" role="std">
      <accessURL use="full">SEARCH</accessURL>
      <securityMethod standardID="ivo://ivoa.net/sso#token"/>
    </interface>
  </capability>
</vosi:capabilities>
"""


class GmsServer(FaultyServer):
    """Knows the groups of the holder of each token; a token it does not know is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, list[str]] = {}
        self.everybody: list[str] | None = None
        """The groups of whoever has any token; None, only known tokens are taken."""
        self.line_end = "\n"
        self.expires = ""
        self.search = f"{self.url}/gms/search"
        self.listing = f"# a registry\n{'ivo://example.org/gms'} = {self.url}/gms/capabilities\n"
        self.capabilities = CAPABILITIES

    def answer(self, request: Received) -> Reply:
        if request.path == "/reg":
            return Reply(body=self.listing)
        if request.path == "/gms/capabilities":
            text = self.capabilities.replace("SEARCH", self.search).replace("BASE", self.url)
            return Reply(body=text, content_type="text/xml")
        if request.path == "/gms/search":
            return self._search(request)
        return Reply(404)

    def _search(self, request: Received) -> Reply:
        groups = self.groups.get(request.token, self.everybody if request.token else None)
        if groups is None:
            return Reply(403 if request.token else 401)
        body = "".join(group + self.line_end for group in groups)
        return Reply(body=body, headers={"Expires": self.expires} if self.expires else {})
