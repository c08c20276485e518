"""Decides whether a tabular model is known to process rows independently, so that callers can share a prediction.

A model is known if every part of it is listed below: pipeline steps, parts of a ColumnTransformer or FeatureUnion,
members of ensembles. The lists name the libraries' own types; subclasses and user functions (a kernel, a tokenizer, an
objective) are unknown. This imports no library: loading the model has already imported all that it consists of.

Rare estimators are left out, and deliberately: neighbors (which of several equally near ones wins depends on how the
work is split), NMF (iterates until the whole batch has converged), LocalOutlierFactor and other models of a single
data set, and anything that draws random numbers for its rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_SKLEARN = """
Pipeline FeatureUnion ColumnTransformer TransformedTargetRegressor FrozenEstimator GridSearchCV RandomizedSearchCV
HalvingGridSearchCV HalvingRandomSearchCV FixedThresholdClassifier TunedThresholdClassifierCV
CalibratedClassifierCV _SigmoidCalibration _TemperatureScaling IsotonicRegression SelfTrainingClassifier
OneVsRestClassifier OneVsOneClassifier _ConstantPredictor MultiOutputClassifier MultiOutputRegressor ClassifierChain
RegressorChain VotingClassifier VotingRegressor StackingClassifier StackingRegressor BaggingClassifier BaggingRegressor
AdaBoostClassifier AdaBoostRegressor

RandomForestClassifier RandomForestRegressor ExtraTreesClassifier ExtraTreesRegressor GradientBoostingClassifier
GradientBoostingRegressor HistGradientBoostingClassifier HistGradientBoostingRegressor _BinMapper IsolationForest
RandomTreesEmbedding DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier ExtraTreeRegressor

LinearRegression Ridge RidgeCV RidgeClassifier RidgeClassifierCV Lasso LassoCV LassoLars LassoLarsCV LassoLarsIC
ElasticNet ElasticNetCV MultiTaskLasso MultiTaskLassoCV MultiTaskElasticNet MultiTaskElasticNetCV Lars LarsCV
OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV BayesianRidge ARDRegression HuberRegressor TheilSenRegressor
RANSACRegressor QuantileRegressor PoissonRegressor GammaRegressor TweedieRegressor LogisticRegression
LogisticRegressionCV SGDClassifier SGDRegressor SGDOneClassSVM Perceptron PassiveAggressiveClassifier
PassiveAggressiveRegressor LinearSVC LinearSVR SVC SVR NuSVC NuSVR OneClassSVM KernelRidge MLPClassifier MLPRegressor
GaussianNB BernoulliNB MultinomialNB ComplementNB CategoricalNB LinearDiscriminantAnalysis
QuadraticDiscriminantAnalysis NearestCentroid KMeans MiniBatchKMeans GaussianMixture BayesianGaussianMixture
EllipticEnvelope DummyRegressor DummyClassifier

StandardScaler MinMaxScaler MaxAbsScaler RobustScaler Normalizer Binarizer PowerTransformer QuantileTransformer
PolynomialFeatures SplineTransformer KBinsDiscretizer OneHotEncoder OrdinalEncoder TargetEncoder LabelEncoder
LabelBinarizer MultiLabelBinarizer SimpleImputer MissingIndicator FunctionTransformer CountVectorizer TfidfVectorizer
TfidfTransformer HashingVectorizer SelectKBest SelectPercentile SelectFpr SelectFdr SelectFwe GenericUnivariateSelect
VarianceThreshold RFE RFECV SelectFromModel SequentialFeatureSelector PCA IncrementalPCA TruncatedSVD FastICA
FactorAnalysis GaussianRandomProjection SparseRandomProjection RBFSampler Nystroem PLSRegression
"""
_KNOWN = {
    "sklearn": frozenset(_SKLEARN.split()),
    "xgboost": frozenset(
        {"Booster", "XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor", "XGBRanker"}
    ),
    "lightgbm": frozenset({"Booster", "LGBMClassifier", "LGBMRegressor", "LGBMRanker"}),
    "catboost": frozenset({"CatBoost", "CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker"}),
}
# Known only with these settings: a ColumnTransformer's "passthrough" is a FunctionTransformer without a function, and
# gradient boosting starts from a DummyClassifier.
_ONLY_IF: Mapping[str, Callable[[Any], bool]] = {
    "FunctionTransformer": lambda step: step.func is None,
    "DummyClassifier": lambda model: model.strategy in ("prior", "most_frequent", "constant"),
}
# MLflow's loaders, and the methods that they call. A custom loader can do anything.
_LOADERS = frozenset({"mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost"})
_METHODS = frozenset({"predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba"})
# Libraries whose objects are data or are not used to predict (joblib: a pipeline's cache of fits; _loss: the losses of
# scikit-learn 1.5, compiled without the package's name).
_DATA = frozenset({"builtins", "numpy", "scipy", "pandas", "collections", "ctypes", "datetime", "joblib"})
_DATA |= {"_catboost", "_loss"}
_LEAVES = frozenset({str, bytes, int, float, complex, bool, type(None)})


def is_known_loader(conf: Mapping[str, Any]) -> bool:
    """Returns whether a `python_function` flavor is one of these libraries' own."""
    return conf.get("loader_module") in _LOADERS


def why_pyfunc_alone(model: Any) -> str | None:
    """Returns why requests to an mlflow.pyfunc.PyFuncModel cannot share predictions; None if they can."""
    conf = model.metadata.flavors["python_function"]
    if not is_known_loader(conf):
        return "it is not a scikit-learn, XGBoost, LightGBM or CatBoost model"
    if (method := conf.get("predict_fn", "predict")) not in _METHODS:
        return f"{method} is not known to process each row independently"
    return why_alone(model.get_raw_model())


def why_alone(model: Any) -> str | None:
    """Returns why a fitted `model` is not known to process each row independently; None if it is."""
    if not _is_listed(model):
        return _unknown(type(model))
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            if why := _why_part_alone(part):
                return why
            waiting += _parts_of(part)
    return None


def library_of(definition: Any) -> str | None:
    """Returns the top-level package that defines a class or function; None if its module has no such name."""
    module, name = getattr(definition, "__module__", None), getattr(definition, "__qualname__", None)
    if not isinstance(module, str) or getattr(sys.modules.get(module), str(name), None) is not definition:
        return None
    return module.partition(".")[0]


def _is_listed(part: Any) -> bool:
    name = type(part).__name__
    return name in _KNOWN.get(library_of(type(part)) or "", ()) and _ONLY_IF.get(name, lambda _: True)(part)


def _why_part_alone(part: Any) -> str | None:
    kind = part if isinstance(part, type) else type(part)
    # A function, a method or a ufunc: scikit-learn's defaults are its own functions; scipy's callables are curves.
    if kind is not part and callable(part) and kind.__module__.partition(".")[0] in ("builtins", "numpy"):
        return None if library_of(part) in _KNOWN else _unknown(part)
    if kind.__module__.partition(".")[0] in _DATA or _is_listed(part):
        return None
    # A class of these libraries that is not an estimator is a part of one: a tree, a loss, a scorer.
    is_helper = library_of(kind) in _KNOWN and not hasattr(kind, "get_params")
    return None if is_helper or (kind is part and library_of(kind) in _KNOWN) else _unknown(kind)


def _parts_of(part: Any) -> list[Any]:
    """Returns the objects in `part` without plain values: vocabularies have millions of words."""
    held: Iterable[Any] = ()
    if isinstance(part, Mapping):
        held = part.values()
    elif isinstance(part, list | tuple | set | frozenset):
        held = part
    elif type(part).__module__.startswith("numpy") and getattr(getattr(part, "dtype", None), "hasobject", False):
        held = part.flat
    elif library_of(type(part)) in _KNOWN:
        held = getattr(part, "__dict__", {}).values()
    return [one for one in held if type(one) not in _LEAVES]


def _unknown(definition: Any) -> str:
    name = getattr(definition, "__qualname__", type(definition).__qualname__)
    module = getattr(definition, "__module__", None)
    return f"{f'{module}.' if module else ''}{name} is not known to process each row independently"
