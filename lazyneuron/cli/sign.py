"""`lazyneuron sign`."""

from pathlib import Path

import click

__all__ = ["command"]


@click.command("sign")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--key", type=click.Path(path_type=Path), help="The private key, Ed25519 in PEM.")
@click.option(
    "--new-key", type=click.Path(path_type=Path), help="Make a private key there, and the public one in FILE.pub."
)
def command(model: Path | None, key: Path | None, new_key: Path | None) -> None:
    """Sign MODEL (its highest version, or the version that is named), so that servers which trust the key take it.

    The signature is over the manifest, which holds the digests of the model's files; they are checked first.
    """
    if new_key is not None and key is not None:
        raise click.UsageError("--new-key and --key go together in no way; make the key first, then sign with it")
    if new_key is None and (model is None or key is None):
        raise click.UsageError("give MODEL and --key FILE, or --new-key FILE")
    from lazyneuron.engine import signature

    if new_key is not None:
        public = signature.new_key(new_key)
        click.echo(f"{new_key}: keep it secret; {public}: for the servers' [repository] trusted_keys")
        key = new_key
    if model is None:
        return
    assert key is not None
    from lazyneuron.engine.artifact import read_manifest, resolve_version, verify_files

    folder = resolve_version(model)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    click.echo(f"{signature.sign(folder, key)}: {manifest.name} version {manifest.version} is signed")
