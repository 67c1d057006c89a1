"""The dishonest accuser: an owner who wants an innocent suspect to match, or a bundle to look better than it is.

Threat model. The accuser has full control of his machine: code, clock, plugins, engines, registry, ledger and keys. He
writes plans, transcripts and bundles by hand, makes any number of signing keys, and knows the suspect, its base and –
once chance has spoken – the assignment. He does not control those whom he cannot bribe: a witness that signs everything
once, an examiner that fetches the suspect itself, and a reader who has their keys from them and verifies with his own
copy of the verifier.

Every attack ends in one of three ways, and every test here asserts which:

* it *fails*: no MATCH, or the bundle does not verify;
* it is *visible as* a named field, check, warning or ledger entry, so that a reader who looks sees it;
* it is *not detectable*, and the grade, or what the bundle says it does not prove, caps what the bundle is worth.

The modules go by what the accuser chooses: the keys, the questions, what counts, or what is written down. The table at
the end of ``docs/evidence.md`` says the same for readers; ``test_documentation.py`` holds the two together.
"""
