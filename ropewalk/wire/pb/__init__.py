"""Protobuf messages of the CRI and of ropewalk.v1.Admin, generated from proto/ at build and set-up; not committed."""
