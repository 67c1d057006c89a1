"""Keep what chance decided for an audit, and its transcript record by record.

Revision: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audit", sa.Column("begin", sa.JSON(), nullable=True))
    op.create_table(
        "audit_record",
        sa.Column("audit_id", sa.String(length=64), nullable=False),
        sa.Column("serial", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("scheme", sa.String(length=40), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"], name=op.f("fk_audit_record_audit_id_audit")),
        sa.PrimaryKeyConstraint("audit_id", "serial", name=op.f("pk_audit_record")),
    )


def downgrade() -> None:
    op.drop_table("audit_record")
    op.drop_column("audit", "begin")
