"""Keep the digest of every tensor of a model, and what files were like when they were digested.

Revision: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_manifest",
        sa.Column("model_id", sa.String(length=64), nullable=False),
        sa.Column("tensors", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_model_manifest_model_id_model")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model_manifest")),
    )
    op.create_table(
        "digested_files",
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("state", name=op.f("pk_digested_files")),
    )


def downgrade() -> None:
    op.drop_table("digested_files")
    op.drop_table("model_manifest")
