from fpvec_audit.domain.family import FamilyReport, MarkStanding, named_marks


def test_marks_are_named_as_a_sentence_has_them() -> None:
    assert (named_marks([]), named_marks([3]), named_marks([3, 5, 6])) == ("no mark", "mark 3", "marks 3, 5 and 6")


def test_mark_is_short_where_it_answers_too_few_keys_within_code_words_whatever_it_does_alone() -> None:
    standings = (
        MarkStanding(0, 6, 1.0, 0.9, 0.5),
        MarkStanding(1, 6, 1.0, 0.8, 0.8),
        MarkStanding(2, 6, 0.5, 1.0, 1.0),
    )
    report = FamilyReport("joint", 3, 0.9, standings, ())
    assert report.short == (1,)
    assert abs(report.fsr - 0.9) < 1e-12
