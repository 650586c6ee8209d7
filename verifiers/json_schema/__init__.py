"""The verifier ``json_schema``.

verifier  JsonSchemaVerifier: JSON that matches a schema
"""
