"""The record of MobileVLM V2's connector. Every command imports this module: no torch here."""

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    return [
        Component(
            kind=Kind.CONNECTOR,
            name="ldp",
            spec="lensmith_ldp.spec:LdpSpec",
            implementation="lensmith_ldp.connector:LdpConnector",
            summary="layers, averages of neighbours and their places (MobileVLM V2)",
            paper="MobileVLM V2 (Chu et al. 2024, arXiv 2402.03766), LDPv2",
            example="name: ldp\nfactor: 2\n",
        )
    ]
