"""Check that a transform or an optimizer keeps the laws that its users rely on.

>>> from gradchain.testing import check_optimizer
>>> check_optimizer(gradchain.optim.AdamW, only=["resume"]).ok
True
"""

from gradchain.testing.checks import check_optimizer as check_optimizer
from gradchain.testing.checks import check_transform as check_transform
from gradchain.testing.items import optimizer_laws as optimizer_laws
from gradchain.testing.items import transform_laws as transform_laws
from gradchain.testing.report import ConformanceError as ConformanceError
from gradchain.testing.report import Report as Report
from gradchain.testing.report import Row as Row
