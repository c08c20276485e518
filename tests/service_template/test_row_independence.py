"""Which models are known to process each row independently: the listed estimators do, and no others are known."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingRegressor
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.utils import all_estimators

from fargate_service.batching import row_independence
from fargate_service.batching.row_independence import why_alone, why_pyfunc_alone

ROWS, CLASSES = make_classification(90, 5, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
ROWS = np.abs(ROWS)
LISTED = {name: kind for name, kind in all_estimators() if name in row_independence._KNOWN["sklearn"]}
TEXTS = ["one text", "another text", "a third"] * 30
PARAMETERS: dict[str, dict[str, Any]] = {
    "ColumnTransformer": {"transformers": [("a", StandardScaler(), [0, 1]), ("b", "passthrough", [2])]},
    "FeatureUnion": {"transformer_list": [("a", StandardScaler())]},
    "FrozenEstimator": {"estimator": LogisticRegression().fit(ROWS, CLASSES)},
    "GaussianRandomProjection": {"n_components": 2},
    "GridSearchCV": {"param_grid": {"C": [1, 2]}},
    "Pipeline": {"steps": [("a", LogisticRegression())]},
    "RandomizedSearchCV": {"param_distributions": {"C": [1, 2]}, "n_iter": 2},
    "SelfTrainingClassifier": {"estimator": LogisticRegression()},
    "SparseRandomProjection": {"n_components": 2},
    "DummyClassifier": {"strategy": "prior"},
    "HistGradientBoostingClassifier": {"max_iter": 2},
    "HistGradientBoostingRegressor": {"max_iter": 2},
}
SMALL = {"n_estimators": 3, "cv": 2, "Cs": 2}
OF_LABELS = {"LabelEncoder", "LabelBinarizer", "MultiLabelBinarizer"}  # parts of other estimators, never given a table


def fitted(name: str, kind: Any) -> Any:
    parameters = inspect.signature(kind).parameters
    given = dict(PARAMETERS.get(name, {}))
    base = Ridge() if "Regress" in name else LogisticRegression()
    if "estimator" in parameters and parameters["estimator"].default is inspect.Parameter.empty:
        given.setdefault("estimator", base)
    if "estimators" in parameters:
        given["estimators"] = [("a", base), ("b", base)]
    for parameter, value in SMALL.items():
        if parameter in parameters:
            given.setdefault(parameter, value)
    model = kind(**given)
    if name in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer", "TfidfTransformer"):
        return model.fit(TEXTS if "Vectorizer" in name else ROWS)
    rows, target = ROWS, CLASSES + 1.0 if "Regress" in name else CLASSES
    if name.startswith("MultiTask") or "MultiOutput" in name or "Chain" in name:
        target = np.c_[CLASSES > 0, CLASSES > 1]
    if "ThresholdClassifier" in name:
        target = CLASSES > 0
    return model.fit(rows[:, :1] if name == "IsotonicRegression" else rows, target)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # scikit-learn's warnings about so little data
@pytest.mark.parametrize("name", sorted(set(LISTED) - OF_LABELS))
def test_a_listed_estimator_gives_the_same_answers_together_as_one_by_one(name: str) -> None:
    model = fitted(name, LISTED[name])
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


def test_random_and_batch_dependent_estimators_are_not_listed() -> None:
    not_listed = {"NMF", "LocalOutlierFactor", "KNeighborsClassifier", "KNeighborsRegressor", "KNNImputer", "TSNE"}

    assert not not_listed & set(LISTED)


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
