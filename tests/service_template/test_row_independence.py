"""Which models are known to process each row independently: the listed estimators do, and no others are known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingRegressor
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, StandardScaler
from sklearn.svm import SVC

from fargate_service.batching import keras_rows, row_independence
from fargate_service.batching.row_independence import why_alone, why_pyfunc_alone
from support.listed_estimators import CLASSES, PARTS, ROWS, TEXTS, fit_listed

LISTED = row_independence._KNOWN["sklearn"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # scikit-learn's warnings about so little data
@pytest.mark.parametrize("name", sorted(LISTED - PARTS))
def test_a_listed_estimator_gives_the_same_answers_together_as_one_by_one(name: str) -> None:
    model = fit_listed(name)
    assert why_alone(model) is None

    rows: Any = TEXTS[:7] if name.endswith("Vectorizer") else ROWS[::13]
    rows = rows[:, :1] if name == "IsotonicRegression" else rows
    methods = [one for one in ("transform", "predict", "predict_proba", "predict_log_proba") if hasattr(model, one)]
    assert methods
    for method in methods:
        answer = getattr(model, method)
        together, alone = dense(answer(rows)), [dense(answer(rows[i : i + 1])) for i in range(len(rows))]
        if isinstance(together, list):  # one array per output, recognized by the shape of the answer
            continue
        if together.dtype.kind == "f":
            np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-7, atol=1e-9)
        else:
            np.testing.assert_array_equal(together, np.concatenate(alone))


def dense(answer: Any) -> Any:
    return answer.toarray() if hasattr(answer, "toarray") else answer


class MyForest(RandomForestClassifier):  # type: ignore[misc]  # scikit-learn ships no types
    pass


class MyScaler(StandardScaler):  # type: ignore[misc]
    pass


MyScaler.__module__, MyScaler.__qualname__ = "sklearn.preprocessing._data", "StandardScaler"


def my_function(rows: Any) -> Any:
    return rows


def patched() -> Any:
    model = RandomForestClassifier(2).fit(ROWS, CLASSES)
    model.predict = my_function
    return model


@pytest.mark.parametrize(
    ("model", "unknown"),
    [
        (MyForest(), "MyForest"),
        (make_pipeline(MyScaler(), LinearRegression()), "StandardScaler"),  # only by its name
        (Pipeline([("a", FeatureUnion([("b", make_union(MyScaler()))])), ("c", LinearRegression())]), "StandardScaler"),
        (make_pipeline(ColumnTransformer([("a", MyScaler(), [0])]), LinearRegression()), "StandardScaler"),
        (VotingRegressor([("a", make_pipeline(FunctionTransformer(my_function), Ridge()))]), "FunctionTransformer"),
        (make_pipeline(FunctionTransformer(np.log1p), Ridge()), "FunctionTransformer"),
        (GridSearchCV(MyForest(), {}), "MyForest"),
        (GridSearchCV(Ridge(), {}, scoring=lambda *_: 1.0), "lambda"),
        (SVC(kernel=lambda a, b: a @ b.T), "lambda"),
        (SVC(kernel=np.dot), "dot"),
        (make_pipeline(HashingVectorizer(tokenizer=my_function), Ridge()), "my_function"),
        (make_pipeline(TfidfVectorizer(tokenizer=str.split), Ridge()), "str.split"),
        (TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1).fit(ROWS, CLASSES), ""),
        (KNeighborsClassifier(), "KNeighborsClassifier"),
        (make_pipeline(StandardScaler(), KNeighborsClassifier()), "KNeighborsClassifier"),
        (LocalOutlierFactor(novelty=True), "LocalOutlierFactor"),
        (DummyClassifier(strategy="uniform"), "DummyClassifier"),
        (patched(), "my_function"),
        (my_function, ""),
        ("text", "builtins.str"),
        (None, "NoneType"),
    ],
)
def test_a_model_with_a_part_that_is_not_listed_is_unknown(model: Any, unknown: str) -> None:
    why = why_alone(model)

    assert why is not None
    assert unknown in why


def test_the_documentation_lists_the_same_estimators_and_layers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    table = page.partition("### Estimators and layers with independent rows")[2].partition("`FunctionTransformer`")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")][2:]
    listed = {library.lower().replace("scikit-learn", "sklearn"): names.split(", ") for library, names in rows}
    known = {**row_independence._KNOWN, "keras": keras_rows._LAYERS | keras_rows._NETWORKS}

    assert listed == {
        library: sorted((name for name in names if not name.startswith("_")), key=str.lower)
        for library, names in known.items()
    }


def test_random_and_batch_dependent_estimators_are_not_listed() -> None:
    not_listed = {"NMF", "LocalOutlierFactor", "KNeighborsClassifier", "KNeighborsRegressor", "KNNImputer", "TSNE"}

    assert not not_listed & LISTED


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingClassifier(max_iter=2).fit(ROWS, CLASSES),
        make_pipeline(ColumnTransformer([("a", "drop", [0])], remainder="passthrough"), Ridge()).fit(ROWS, CLASSES),
        make_pipeline("passthrough", StandardScaler().set_output(transform="pandas"), Ridge()).fit(ROWS, CLASSES),
        GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [1, 2]}, scoring="f1_macro").fit(ROWS, CLASSES),
        LabelEncoder().fit(CLASSES),
    ],
)
def test_fitted_parts_of_scikit_learn_are_known(model: Any) -> None:
    assert why_alone(model) is None


@pytest.mark.parametrize(
    ("conf", "why"),
    [
        ({"loader_module": "mlflow.sklearn"}, None),
        ({"loader_module": "mlflow.sklearn", "predict_fn": "predict_proba"}, None),
        (
            {"loader_module": "mlflow.sklearn", "predict_fn": "score"},
            "score is not known to process each row independently",
        ),
        ({"loader_module": "my_loader"}, "it is not a scikit-learn, XGBoost, LightGBM or CatBoost model"),
    ],
)
def test_only_models_of_mlflows_own_loaders_are_known(conf: dict[str, str], why: str | None) -> None:
    metadata = SimpleNamespace(flavors={"python_function": conf, "sklearn": {}})

    assert why_pyfunc_alone(SimpleNamespace(metadata=metadata, get_raw_model=Ridge)) == why


def test_no_library_is_imported_for_it() -> None:
    code = """
import sys
from fargate_service.batching import row_independence
row_independence.why_alone(object())
print(sorted({"sklearn", "xgboost", "lightgbm", "catboost", "numpy", "pandas"} & set(sys.modules)))
"""
    folder = Path(row_independence.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


OF_OTHER_LIBRARIES = """
import numpy as np
from fargate_service.batching.row_independence import why_alone
{imports}
rows = np.random.default_rng(0).random((60, 4))
classes = (rows[:, 0] > 0.5).astype(int)
model = {model}
print(why_alone(model))
print(why_alone({changed}))
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("library", "imports", "model", "changed"),
    [
        (
            "xgboost",
            "import xgboost as x",
            "x.XGBClassifier(n_estimators=2).fit(rows, classes)",
            "x.XGBRegressor(objective=lambda a, b: (a, b))",
        ),
        (
            "xgboost",
            "import xgboost as x",
            "x.train({}, x.DMatrix(rows, classes), 2)",
            "type('Mine', (x.Booster,), {})()",
        ),
        (
            "lightgbm",
            "import lightgbm as x",
            "x.LGBMClassifier(n_estimators=2, verbose=-1).fit(rows, classes)",
            "x.LGBMRegressor(objective=lambda a, b: (a, b))",
        ),
    ],
)
def test_boosters_are_known_unless_they_are_changed(library: str, imports: str, model: str, changed: str) -> None:
    pytest.importorskip(library)
    code = OF_OTHER_LIBRARIES.format(imports=imports, model=model, changed=changed)
    folder = Path(row_independence.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)

    known, unknown = done.stdout.splitlines()[-2:]

    assert known == "None"
    assert unknown.endswith("is not known to process each row independently")
